"""Gives registers that all lanes read copies next to each other, in a netlist for ECP5.

What goes to every lane crosses the device. A router makes one tree of the wires to all of them, and
its last branches take long ways. So each pair of neighbouring lanes reads a register of its own.
"""

from collections import defaultdict
from typing import Any

from .floorplan import LANE
from .output_registers import REGISTER

__all__ = ["copy_registers"]

TOGETHER = 2  # neighbouring lanes that read the same copy
FEW = 4  # groups of lanes for which there are no copies


def copy_registers(module: dict[str, Any]) -> int:
    """Copy the registers outside of lanes that more than `FEW` groups of lanes read.

    Returns how many copies there are. A register that then has no reader is removed.
    """
    cells = module["cells"]
    # Of each net, its readers in each group of lanes; elsewhere: None.
    readers: dict[int, dict[int | None, list[tuple[str, str, int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    highest = 0  # of all nets
    for port in module["ports"].values():
        for net in port["bits"]:
            readers[net][None] = []
    for name, cell in cells.items():
        lane = LANE.search(name)
        group = int(lane[1]) // TOGETHER if lane else None
        for port, nets in cell["connections"].items():
            highest = max([highest, *(net for net in nets if isinstance(net, int))])
            if cell["port_directions"][port] == "input":
                for i, net in enumerate(nets):
                    readers[net][group].append((name, port, i))

    made = 0
    for name in [name for name, cell in cells.items() if cell["type"] == REGISTER]:
        (net,) = cells[name]["connections"]["Q"]
        groups = sorted(group for group in readers[net] if group is not None)
        if LANE.search(name) or len(groups) <= FEW:
            continue
        for group in groups:
            highest, made = highest + 1, made + 1
            copy = f"{name}_copy_{group}"
            cells[copy] = cells[name] | {
                "connections": cells[name]["connections"] | {"Q": [highest]},
                "attributes": dict(cells[name]["attributes"]),
            }
            module["netnames"][f"{copy}_Q"] = {"bits": [highest], "attributes": {}}
            for reader, port, i in readers[net][group]:
                cells[reader]["connections"][port][i] = highest
        if None not in readers[net]:
            del cells[name]
    return made
