"""A lane down to its layout, with what Debian has: qflow, which lets graywolf place, qrouter route
and Magic draw and check; KLayout makes the picture.

qflow's tools take hours for ten thousand cells, so what is laid out is one lane with small
memories. All of them are flip-flops: qflow's kits have no SRAM.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from amaranth import Value
from klayout import db, lay

from reticent.config import BuildConfig
from reticent.errors import ToolError, UserError
from reticent_hw.lane import Lane

from .design import LANE, lane_verilog
from .macros import MacroLibrary
from .pdk import Pdk
from .report import area_report
from .synthesis import NETLIST, synthesise, yosys

__all__ = ["LAYOUT_BUILD", "check_layout_tools", "lay_out", "pictures", "read_def"]

DENSITY = 0.75  # of cells in their rows: the rest is left to wires that cross them

STEPS = (
    ("synthesize", "sizes of cells, clock tree"),
    ("place", "placement"),
    ("route", "routing"),
    ("backanno", "timing with wires"),
    ("migrate", "drawing"),
    ("lvs", "comparison with the netlist"),
    ("drc", "check of the design rules"),
)

# Pictures: width in pixels, the part of the layout's width that the second one shows, a colour for
# each layer of metal.
PIXELS, PART = 1600, 0.12
COLOURS = {
    "metal1": 0x9AA5B1,
    "metal2": 0xEE6677,
    "metal3": 0x228833,
    "metal4": 0xCCBB44,
    "metal5": 0x4477AA,
    "metal6": 0xAA3377,
}

# Whatever a lane has, as small as it gets.
LAYOUT_BUILD = BuildConfig(
    lanes=1,
    fifo_depth=11,
    queue_depth=16,
    stack=1,
    frame_depth=16,
    layers=1,
    weight_depth=16,
    pointer_depth=16,
    state_depth_even=8,
    state_depth_odd=4,
    channel_depth=4,
    map_depth=4,
    map_rows=2,
    map_columns=2,
    relative_bits=4,
    multiplier_bits=8,
    accumulator_bits=16,
)

# Names that graywolf's reader does not take for words of its own ("layer"): every bit is numbered.
# And inside, names that qflow does not make. Inputs that lead nowhere go: a pin without a wire is
# less metal than the rules ask for.
PLAIN = """\
read_liberty -lib -ignore_miss_func {cells}
read_verilog {netlist}
hierarchy -top {top}
flatten
splitnets -ports -format _
cd {top}
{renames}
opt_clean
delete -input i:* c:* %x %d
cd ..
rename -hide w:*
rename -hide c:*
rename -enumerate -pattern n%
write_verilog -noattr -noexpr -nohex -nodec -simple-lhs source/{top}.v
"""

# From the drawing to GDS. Cells are what their LEF shows of them: pins and obstructions.
STREAM = """\
drc off
lef read {lef}
load {top}
gds write {top}
quit -noprompt
"""


def check_layout_tools(pdk: Pdk) -> None:
    """Refuse a kit that qflow does not know, and a machine without qflow."""
    if "qflow" not in pdk.layout:
        raise UserError(f"PDK {pdk.name} is not one of qflow's: give osu018")
    if shutil.which("qflow") is None:
        raise UserError("qflow not found: apt-get install qflow")


def lay_out(
    config: BuildConfig, pdk: Pdk, folder: Path, *, period_ns: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """Synthesise a lane of `config`, run qflow's steps in `folder`, write GDS and two pictures.

    Returns the facts that it also writes to report.json: area by block before placement, cells and
    size after it, length of wires, the clock period that wires allow, and how many wires, devices
    and design rules are wrong. Raises ToolError when a tool fails or leaves wires out.
    """
    folder = folder.resolve()
    if " " in str(folder):
        raise UserError(f"{folder}: qflow cannot work in a folder with a blank in its name")
    # qflow goes on from what it finds.
    for name in ("source", "synthesis", "layout", "log"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
    say("synthesis")
    macros = MacroLibrary(replace(pdk, memories=replace(pdk.memories, from_bits=1 << 62)))
    verilog = lane_verilog(config, macros)
    modules = synthesise(verilog, LANE, pdk, macros, folder, period_ns=period_ns)
    renames = "\n".join(f"rename {name} {name}_0" for name in single_bits(config))
    plain = PLAIN.format(cells=pdk.cells_lib, netlist=NETLIST, top=LANE, renames=renames)
    yosys(plain, folder, "plain.log")
    # The cells are mapped already.
    (folder / "mapped.ys").write_text(f"hierarchy -top {LANE}\n")
    (folder / "project_vars.sh").write_text(
        f"set yosys_script = {folder}/mapped.ys\nset initial_density = {DENSITY}\n"
    )
    # Without qrouter's last stage, which takes every wire out and lays it again, twice: hours.
    layout, lef = folder / "layout", pdk.root / pdk.layout["cell_lef"]
    (layout / f"{LANE}.cfg2").write_text(
        f"qrouter::standard_route {LANE}_route.def false true\nquit\n"
    )
    said = {}
    for step, what in STEPS:
        say(what)
        said[step] = qflow(pdk, step, folder)
        if step == "route" and "Final: No failed routes" not in said[step]:
            raise ToolError(f"qrouter left wires out ({folder}/log/route.log)")
    say("GDS")
    magic(STREAM.format(lef=lef, top=LANE), pdk, layout)
    report = {
        "area": area_report(modules, macros),
        **read_def((layout / f"{LANE}.def").read_text()),
        "mhz": number(r"maximum clock frequency \(zero margin\) = ([\d.]+)", said["backanno"]),
        "lvs_errors": number(r"Total errors = (\d+)", said["lvs"]),
        "drc_errors": number(r"drc = (\d+)", said["drc"]),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    say("pictures")
    pictures(layout / f"{LANE}.def", lef, folder)
    return report


def single_bits(config: BuildConfig) -> list[str]:
    """Ports of a lane that are a bit wide."""
    lane = Lane(config)
    found = [
        "__".join(str(part) for part in path)
        for path, _, value in lane.signature.flatten(lane)
        if len(Value.cast(value)) == 1
    ]
    lane._MustUse__used = True  # its ports are enough
    return [*found, "rst"]


def qflow(pdk: Pdk, step: str, folder: Path) -> str:
    """Run one of qflow's steps; returns what it said."""
    command = ["qflow", "-T", pdk.layout["qflow"], "-p", str(folder), step, LANE]
    text, code = run(command, folder, folder / "log" / f"{step}.out")
    # What these two find is counted, and they call it a failure.
    if code and step not in ("lvs", "drc"):
        raise ToolError(f"qflow {step} failed: {_last(text)} ({folder / 'log' / step}.out)")
    return text


def magic(script: str, pdk: Pdk, folder: Path) -> None:
    """Run Magic on a script, with the kit's technology."""
    (folder / "stream.tcl").write_text(script)
    command = ["magic", "-dnull", "-noconsole", "-rcfile", str(pdk.root / pdk.layout["magicrc"])]
    text, code = run([*command, "stream.tcl"], folder, folder.parent / "log" / "stream.out")
    if code or not (folder / f"{LANE}.gds").is_file():
        raise ToolError(f"magic wrote no GDS: {_last(text)} ({folder.parent}/log/stream.out)")


def run(command: list[str], folder: Path, log: Path) -> tuple[str, int]:
    """What a command says, which goes into `log`, too, and its exit code."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log.write_text(done.stdout)
    return done.stdout, done.returncode


def _last(text: str) -> str:
    """The last line that says something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


def number(pattern: str, text: str) -> float:
    """The first number that a step of qflow reports with these words."""
    found = re.search(pattern, text)
    if found is None:
        raise ToolError(f"qflow does not say {pattern!r}: {_last(text)}")
    return float(found[1])


def read_def(text: str) -> dict[str, float]:
    """What a DEF file says: cells, those that only fill, the die in um2, length of wires in um."""
    scale = float(re.search(r"UNITS DISTANCE MICRONS (\d+)", text)[1])
    left, low, right, high = map(
        int, re.search(r"DIEAREA \( (\S+) (\S+) \) \( (\S+) (\S+) \)", text).groups()
    )
    kinds = re.findall(r"^- \S+ (\S+) \+ (?:PLACED|FIXED)", text, re.MULTILINE)
    fillers = sum(kind == "FILL" for kind in kinds)
    nets = text[text.index("\nNETS ") : text.index("END NETS")]
    return {
        "cells": len(kinds) - fillers,
        "fillers": fillers,
        "nets": int(re.match(r"\nNETS (\d+)", nets)[1]),
        "die_um2": (right - left) * (high - low) / scale**2,
        "wire_um": sum(_lengths(nets)) / scale,
    }


def _lengths(nets: str) -> Iterator[int]:
    """Of every straight piece of wire; `*` repeats a coordinate."""
    for path in re.findall(r"(?:ROUTED|NEW) \S+ ([^;A-Z]*)", nets):
        x = y = None
        for to_x, to_y in re.findall(r"\( (\S+) (\S+) \)", path):
            next_x, next_y = x if to_x == "*" else int(to_x), y if to_y == "*" else int(to_y)
            if x is not None:
                yield abs(next_x - x) + abs(next_y - y)
            x, y = next_x, next_y


def pictures(layout: Path, lef: Path, folder: Path) -> None:
    """layout.png, the whole of a DEF file, and detail.png, a part from its middle: metals alone."""
    options = db.LoadLayoutOptions()
    reader = options.lefdef_config
    reader.lef_files = [str(lef)]
    reader.macro_resolution_mode = 1  # cells as LEF shows them
    reader.produce_labels = reader.produce_lef_labels = False
    options.lefdef_config = reader
    view = lay.LayoutView()
    for name, value in (
        ("background-color", "#ffffff"),
        ("grid-visible", "false"),
        ("text-visible", "false"),
        ("cell-box-visible", "false"),
    ):
        view.set_config(name, value)
    view.load_layout(str(layout), options, True)
    view.max_hier()
    for layer in view.each_layer():
        colour = COLOURS.get(layer.source_name.split(".")[0])
        layer.visible = colour is not None
        layer.dither_pattern = 0  # solid
        layer.fill_color = layer.frame_color = colour or 0
    whole = view.active_cellview().cell.dbbox()
    middle = whole.center()
    width, height = PART * whole.width() / 2, PART * whole.height() / 2
    detail = db.DBox(middle.x - width, middle.y - height, middle.x + width, middle.y + height)
    for box, name in ((whole, "layout.png"), (detail, "detail.png")):
        view.zoom_box(box)
        view.save_image(str(folder / name), PIXELS, round(PIXELS * box.height() / box.width()))
