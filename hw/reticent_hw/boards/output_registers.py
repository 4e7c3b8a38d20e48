"""Moves registers into the block memories and multipliers that they follow, in a netlist for ECP5.

Both answer late, but have a register at their outputs that answers early. Yosys does not use it: a
register right behind one of them stays one in logic.
"""

from collections import defaultdict
from typing import Any

__all__ = ["BLOCK", "MULTIPLIER", "REGISTER", "absorb"]

BLOCK, MULTIPLIER, REGISTER = "DP16KD", "MULT18X18D", "TRELLIS_FF"
SIDES = "AB"
ZERO, ONE = "0", "1"


def _enable(register: dict[str, Any], clock: Any) -> Any | None:
    """The net that lets a register move; None when a register of such a cell
    cannot do what it does."""
    parameters, nets = register["parameters"], register["connections"]

    def mode(name: str) -> str:
        return str(parameters.get(name, "")).strip()

    resets = nets.get("LSR", [ZERO])
    if nets["CLK"] != [clock] or mode("CLKMUX") not in ("", "CLK") or resets not in ([ZERO], ["x"]):
        return None
    if mode("CEMUX") == "1" or "CE" not in nets:
        return ONE
    return nets["CE"][0] if mode("CEMUX") == "CE" else None


def _followers(
    cells: dict[str, Any], readers: dict[int, list[str | None]], outputs: dict[str, int]
) -> dict[str, str] | None:
    """The register behind each output (port and net); None where one goes anywhere else, too."""
    found = {}
    for port, net in outputs.items():
        names = readers[net]
        if len(names) != 1 or names[0] is None:
            return None
        found[port] = names[0]
    return found


def _replace(cells: dict[str, Any], cell: dict[str, Any], followers: dict[str, str]) -> None:
    """Outputs of a cell become those of the registers behind them."""
    for port, name in followers.items():
        cell["connections"][port] = cells.pop(name)["connections"]["Q"]


def absorb(module: dict[str, Any]) -> dict[str, int]:
    """Use the output registers of a module's blocks and multipliers where they fit; how many of
    each have one now.

    A register is used when each of the bits that are used goes to a register and nowhere else, and
    these registers share clock and enable and are never reset. A multiplier's is always enabled.
    """
    cells = module["cells"]
    readers: dict[int, list[str | None]] = defaultdict(list)
    for name, cell in cells.items():
        for port, nets in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                for net in nets:
                    is_data = cell["type"] == REGISTER and port == "DI"
                    readers[net].append(name if is_data else None)
    for port in module["ports"].values():
        for net in port["bits"]:
            readers[net].append(None)

    def read(cell: dict[str, Any], prefix: str) -> dict[str, int]:
        nets = cell["connections"]
        return {
            port: nets[port][0]
            for port in nets
            if port.startswith(prefix) and nets[port] and readers.get(nets[port][0])
        }

    used = {BLOCK: 0, MULTIPLIER: 0}
    for cell in list(cells.values()):
        nets, parameters = cell["connections"], cell["parameters"]
        if cell["type"] == BLOCK:
            for side in SIDES:
                followers = _followers(cells, readers, read(cell, f"DO{side}"))
                if not followers or parameters[f"REGMODE_{side}"] != "NOREG":
                    continue
                clock = nets[f"CLK{side}"][0]
                enables = {_enable(cells[name], clock) for name in followers.values()}
                if len(enables) != 1 or None in enables:
                    continue
                parameters[f"REGMODE_{side}"] = "OUTREG"
                nets[f"OCE{side}"] = [enables.pop()]
                _replace(cells, cell, followers)
                used[BLOCK] += 1
        elif cell["type"] == MULTIPLIER:
            followers = _followers(cells, readers, read(cell, "P"))
            if not followers or "REG_OUTPUT_CLK" in parameters:
                continue
            clock = cells[next(iter(followers.values()))]["connections"]["CLK"][0]
            if {_enable(cells[name], clock) for name in followers.values()} != {ONE}:
                continue
            parameters |= {
                "REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0"
            }  # fmt: skip
            for port, net in (("CLK0", clock), ("CE0", ONE), ("RST0", ZERO)):
                nets[port] = [net]
                cell["port_directions"][port] = "input"
            _replace(cells, cell, followers)
            used[MULTIPLIER] += 1
    return used
