"""Moves registers into the block memories that they follow, in a netlist for ECP5.

A block memory of an ECP5 answers late, but has a register at its outputs that answers early. Yosys
does not use it: a register right behind a block stays one in logic.
"""

from collections import defaultdict
from typing import Any

__all__ = ["BLOCK", "REGISTER", "absorb"]

BLOCK, REGISTER = "DP16KD", "TRELLIS_FF"
SIDES = "AB"
ZERO, ONE = "0", "1"


def _enable(register: dict[str, Any], clock: Any) -> Any | None:
    """The net that lets a register move; None when a block's register cannot do what it does."""
    parameters, nets = register["parameters"], register["connections"]

    def mode(name: str) -> str:
        return str(parameters.get(name, "")).strip()

    resets = nets.get("LSR", [ZERO])
    if nets["CLK"] != [clock] or mode("CLKMUX") not in ("", "CLK") or resets not in ([ZERO], ["x"]):
        return None
    if mode("CEMUX") == "1" or "CE" not in nets:
        return ONE
    return nets["CE"][0] if mode("CEMUX") == "CE" else None


def absorb(module: dict[str, Any]) -> int:
    """Use the output registers of a module's blocks where they fit; how many ports have one now.

    A port's register is used when each of its bits that is used goes to a register and nowhere
    else, and these registers share clock and enable and are never reset.
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

    used = 0
    for block in [cell for cell in cells.values() if cell["type"] == BLOCK]:
        nets, parameters = block["connections"], block["parameters"]
        for side in SIDES:
            outputs = [
                port
                for port in nets
                if port.startswith(f"DO{side}") and nets[port] and readers.get(nets[port][0])
            ]
            if not outputs or parameters[f"REGMODE_{side}"] != "NOREG":
                continue
            followers = {}
            enables = set()
            for port in outputs:
                found = readers[nets[port][0]]
                name = found[0] if len(found) == 1 else None
                enable = _enable(cells[name], nets[f"CLK{side}"][0]) if name else None
                enables.add(enable)
                followers[port] = name
            if len(enables) != 1 or None in enables:
                continue
            parameters[f"REGMODE_{side}"] = "OUTREG"
            nets[f"OCE{side}"] = [enables.pop()]
            for port, name in followers.items():
                nets[port] = cells.pop(name)["connections"]["Q"]
            used += 1
    return used
