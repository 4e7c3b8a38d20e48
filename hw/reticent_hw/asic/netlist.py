"""What a netlist is made of, cell by cell."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .design import CHIP
from .macros import MacroLibrary
from .pdk import Pdk
from .synthesis import NETLIST, yosys

__all__ = ["ClockPin", "Netlist", "netlist_of", "read_netlist"]

CELLS = "netlist.json"


@dataclass(frozen=True)
class ClockPin:
    """The pin of a cell that the clock goes to: what cell and pin of the kit they are, and by path
    the clock gate before it, None where there is none."""

    cell: str
    pin: str
    gate: str | None


@dataclass(frozen=True)
class Netlist:
    """By path below the core: the kind of each macro; the net at each cell's first output; the
    clock pin of each cell that has one; and the clock gates."""

    macros: Mapping[str, str]
    nets: Mapping[str, str]
    clocks: Mapping[str, ClockPin]
    gates: Collection[str]


def read_netlist(pdk: Pdk, macros: MacroLibrary, folder: Path) -> Netlist:
    """The core of the netlist in `folder`."""
    script = f"""\
read_verilog {NETLIST}
setattr -mod -set keep_hierarchy 1 *
read_liberty -overwrite -lib {pdk.cells_lib}
read_verilog -lib macros.v
hierarchy -check -top {CHIP}.core
write_json {CELLS}
"""
    yosys(script, folder, "netlist.log")
    design = json.loads((folder / CELLS).read_text())
    return netlist_of(design, set(macros.used), pdk.cells.clock_gate)


def netlist_of(design: Mapping, kinds: set[str], gate: Sequence[str] | None) -> Netlist:
    """What Yosys' JSON says of the core. `kinds` are macros; `gate` is the kit's clock gate."""
    modules = design["modules"]
    found = Netlist({}, {}, {}, set())
    gate_kind, gated = (gate[0], gate[3]) if gate else (None, "")

    def visit(module: str, path: str, clocks: dict[int, str | None]) -> None:
        """`clocks`: the bits that are clocks, and the gate before each."""
        facts = modules[module]
        names: dict[int, str] = {}
        for name, net in facts["netnames"].items():
            width = len(net["bits"])
            for i, bit in enumerate(net["bits"]):
                names.setdefault(bit, name if width == 1 else f"{name}[{i}]")
        for name, cell in facts["cells"].items():
            if cell["type"] == gate_kind:
                here = f"{path}{name}".replace(".", "/")
                found.gates.add(here)
                clocks[cell["connections"][gated][0]] = here
        for name, cell in facts["cells"].items():
            kind, pins = modules[cell["type"]], cell["connections"]
            taken = {p: b[0] for p, b in pins.items() if len(b) == 1 and b[0] in clocks}
            if cell["type"] in kinds:
                found.macros[f"{path}{name}".replace(".", "/")] = cell["type"]
            elif kind.get("attributes", {}).get("keep_hierarchy"):
                inside = {kind["ports"][p]["bits"][0]: clocks[bit] for p, bit in taken.items()}
                visit(cell["type"], f"{path}{name}/", inside)
            else:
                for pin, bit in taken.items():
                    if kind["ports"][pin]["direction"] == "input":
                        clock = ClockPin(cell["type"], pin, clocks[bit])
                        found.clocks[f"{path}{name}"] = clock
                outputs = (p for p, port in kind["ports"].items() if port["direction"] == "output")
                for pin in outputs:
                    bits = pins.get(pin)
                    if bits and bits[0] in names:
                        found.nets[f"{path}{name}"] = f"{path}{names[bits[0]]}"
                        break

    core = next(name for name in modules if name.lstrip("\\") == f"{CHIP}.core")
    visit(core, "", {modules[core]["ports"]["core_clk"]["bits"][0]: None})
    return found
