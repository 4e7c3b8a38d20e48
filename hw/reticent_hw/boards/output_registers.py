"""Moves registers into the block memories and multipliers that they follow, in a netlist for ECP5.

Both answer late, but have a register at their outputs that answers early. Yosys does not use it: a
register right behind one of them stays one in logic.
"""

from collections import defaultdict
from typing import Any, NamedTuple

__all__ = ["BLOCK", "MULTIPLIER", "REGISTER", "absorb"]

BLOCK, MULTIPLIER, REGISTER = "DP16KD", "MULT18X18D", "TRELLIS_FF"
SIDES = "AB"
ZERO, ONE = "0", "1"


def _enable(register: dict[str, Any], clock: Any) -> Any | None:
    """The net that lets a register take a value; None when a cell's own cannot do what it does."""
    parameters, nets = register["parameters"], register["connections"]

    def mode(name: str) -> str:
        return str(parameters.get(name, "")).strip()

    resets = nets.get("LSR", [ZERO])
    if nets["CLK"] != [clock] or mode("CLKMUX") not in ("", "CLK") or resets not in ([ZERO], ["x"]):
        return None
    if mode("CEMUX") == "1" or "CE" not in nets:
        return ONE
    return nets["CE"][0] if mode("CEMUX") == "CE" else None


class _Followers(NamedTuple):
    """Registers that may move into the cell before them."""

    names: dict[str, str]  # by the cell's output port
    clock: Any
    enable: Any


def _followers(
    module: dict[str, Any],
    readers: dict[int, list[str | None]],
    cell: dict[str, Any],
    outputs: str,
    clock_port: str | None = None,
) -> _Followers | None:
    """The registers behind the ports of a cell that begin with `outputs`, as far as these are read;
    None where they cannot move. `clock_port` is where the cell's clock is if it has one."""
    cells, names = module["cells"], {}
    for port, nets in cell["connections"].items():
        found = readers.get(nets[0]) if port.startswith(outputs) and nets else None
        if found:
            if len(found) != 1 or found[0] is None:
                return None
            names[port] = found[0]
    if not names:
        return None
    first = cells[next(iter(names.values()))]["connections"]
    clock = cell["connections"][clock_port][0] if clock_port else first["CLK"][0]
    enables = {_enable(cells[name], clock) for name in names.values()}
    if len(enables) != 1 or None in enables:
        return None
    return _Followers(names, clock, enables.pop())


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

    used = {BLOCK: 0, MULTIPLIER: 0}
    for cell in list(cells.values()):
        nets, parameters = cell["connections"], cell["parameters"]
        if cell["type"] == BLOCK:
            for side in SIDES:
                found = _followers(module, readers, cell, f"DO{side}", f"CLK{side}")
                if found is None or parameters[f"REGMODE_{side}"] != "NOREG":
                    continue
                parameters[f"REGMODE_{side}"] = "OUTREG"
                nets[f"OCE{side}"] = [found.enable]
                _replace(cells, cell, found.names)
                used[BLOCK] += 1
        elif cell["type"] == MULTIPLIER:
            found = _followers(module, readers, cell, "P")
            if found is None or found.enable != ONE or "REG_OUTPUT_CLK" in parameters:
                continue
            parameters |= {
                "REG_OUTPUT_CLK": "CLK0", "REG_OUTPUT_CE": "CE0", "REG_OUTPUT_RST": "RST0"
            }  # fmt: skip
            for port, net in (("CLK0", found.clock), ("CE0", ONE), ("RST0", ZERO)):
                nets[port] = [net]
                cell["port_directions"][port] = "input"
            _replace(cells, cell, found.names)
            used[MULTIPLIER] += 1
    return used
