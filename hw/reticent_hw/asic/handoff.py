"""A LibreLane project: everything that it takes from the Verilog to GDS."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.config import BuildConfig
from reticent.errors import ToolError, UserError

from .design import CHIP
from .macros import Macro, MacroLibrary
from .pdk import Pdk
from .report import area_report
from .synthesis import Module

__all__ = [
    "Placement",
    "check_layout",
    "check_project",
    "macro_instances",
    "place_macros",
    "run_flow",
    "write_project",
]

HALO_UM = 20.0  # between macros: room for their power straps and for routing
EDGE_UM = 40.0  # from the edge of the die
DENSITY = 0.45  # of the cells in their part of the die
PINS = {"N": ("clk", "rst"), "E": ("tx",), "S": ("busy", "session"), "W": ("rx",)}


@dataclass(frozen=True)
class Placement:
    """The lower left corner of each macro by its path, for example
    "core.lane_0.parts.weights.memory.memory.macro_0_0", and the die's width and height, in um."""

    corners: Mapping[str, tuple[float, float]]
    width: float
    height: float


def macro_instances(modules: Mapping[str, Mapping[str, str]], top: str) -> dict[str, str]:
    """The kind of each macro by its path below `top`.

    `modules` has, for each module, the kind of every instance in it.
    """
    found: dict[str, str] = {}

    def visit(module: str, path: str) -> None:
        for name, kind in modules[module].items():
            if kind in modules:
                visit(kind, f"{path}{name}.")
            else:
                found[f"{path}{name}"] = kind

    visit(top, "")
    return found


def instances_of(verilog: str, macros: Mapping[str, Macro]) -> dict[str, dict[str, str]]:
    """For each module of Amaranth's Verilog: the kind of each instance of a module or macro."""
    modules: dict[str, dict[str, str]] = {}
    names = set(re.findall(r"^module \\?([^\s(]+)", verilog, re.MULTILINE))
    inside: dict[str, str] = {}
    for line in verilog.splitlines():
        start = re.match(r"module \\?([^\s(]+)", line)
        if start:
            inside = modules.setdefault(start[1], {})
        instance = re.match(r"  \\?(\S+) +(\w+) +\($", line)
        if instance and (instance[1] in names or instance[1] in macros):
            inside[instance[2]] = instance[1]
    return {
        name: {i: kind for i, kind in found.items() if kind in modules or kind in macros}
        for name, found in modules.items()
    }


def size_of(lef: Path) -> tuple[float, float]:
    """Width and height of a macro in um."""
    try:
        found = re.search(r"^\s*SIZE\s+([\d.]+)\s+BY\s+([\d.]+)", lef.read_text(), re.MULTILINE)
    except OSError as error:
        raise UserError(f"{lef} cannot be read ({error.strerror})") from None
    if found is None:
        raise ToolError(f"{lef} does not say how large its macro is")
    return float(found[1]), float(found[2])


def place_macros(
    instances: Mapping[str, str], sizes: Mapping[str, tuple[float, float]], cell_um2: float
) -> Placement:
    """Macros in rows from the top of a die that is about square, cells below them.

    A hint to start from: those of a lane stand together, in the order of their paths.
    """
    area = sum(
        (sizes[kind][0] + HALO_UM) * (sizes[kind][1] + HALO_UM) for kind in instances.values()
    )
    cells = cell_um2 / DENSITY
    widest = max((sizes[kind][0] for kind in instances.values()), default=0.0)
    width = max(math.sqrt(1.15 * area + cells), widest) + 2 * EDGE_UM
    corners: dict[str, tuple[float, float]] = {}
    x, y, row = EDGE_UM, EDGE_UM + cells / (width - 2 * EDGE_UM) + HALO_UM, 0.0
    for path, kind in sorted(instances.items(), key=lambda item: _natural(item[0])):
        across, up = sizes[kind]
        if x + across > width - EDGE_UM:
            x, y, row = EDGE_UM, y + row + HALO_UM, 0.0
        corners[path] = (round(x, 2), round(y, 2))
        x, row = x + across + HALO_UM, max(row, up)
    return Placement(corners, math.ceil(width), math.ceil(y + row + EDGE_UM))


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts lane_2 before lane_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]


def check_layout(pdk: Pdk) -> None:
    """Refuse a kit whose memories are only black boxes."""
    if "macro_lef" not in pdk.layout:
        raise UserError(
            f"PDK {pdk.name} has no SRAM macros that could be laid out: hand off for ihp-sg13g2 or "
            "sky130"
        )


def write_project(
    config: BuildConfig,
    verilog: str,
    modules: Mapping[str, Module],
    pdk: Pdk,
    macros: MacroLibrary,
    folder: Path,
    *,
    period_ns: float,
) -> Path:
    """Write config.json, Verilog, SDC, pin order and a README into `folder`; returns config.json.

    `modules` are those of the synthesised `verilog`, for the size of the die.
    """
    check_layout(pdk)
    instances = macro_instances(instances_of(verilog, macros.used), CHIP)
    sizes = {name: size_of(pdk.root / pdk.layout["macro_lef"].format(name)) for name in macros.used}
    cells = sum(line["cell_um2"] for line in area_report(modules, macros).values())
    placed = place_macros(instances, sizes, cells)
    source = folder / "src"
    source.mkdir(parents=True, exist_ok=True)
    (source / f"{CHIP}.v").write_text(verilog)
    (source / "macros.v").write_text(
        "\n".join(macro.stub() for _, macro in sorted(macros.used.items()))
    )
    for name in ("implementation", "signoff"):
        (source / f"{name}.sdc").write_text(_sdc(pdk, period_ns))
    (folder / "pin_order.cfg").write_text(
        "".join(f"#{side}\n" + "".join(f"{pin}\n" for pin in pins) for side, pins in PINS.items())
    )
    path = folder / "config.json"
    facts = _config(pdk, macros, instances, placed, period_ns)
    path.write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "README.txt").write_text(
        f"""{CHIP}: {config.lanes} lanes in {pdk.title}.

From Verilog to GDS, with LibreLane and its tools (OpenROAD, KLayout, Magic, Netgen) installed:

  librelane --manual-pdk --pdk-root PDK_ROOT --pdk {pdk.root.name} config.json

The macros' places are a hint: rows in the order of the lanes above the cells.
"""
    )
    return path


def _sdc(pdk: Pdk, period_ns: float) -> str:
    """One clock; the serial pins and the lights may take any time."""
    return f"""\
create_clock -name clk -period {period_ns:g} [get_ports clk]
set_clock_uncertainty 0.25 [get_clocks clk]
set_input_delay {0.2 * period_ns:g} -clock clk [get_ports rst]
set_false_path -from [get_ports rx]
set_false_path -to [get_ports {{tx session busy}}]
set_driving_cell -lib_cell {pdk.cells.driver} [get_ports {{rst rx}}]
set_load {pdk.cells.load_pf:g} [all_outputs]
"""


def _config(
    pdk: Pdk,
    macros: MacroLibrary,
    instances: Mapping[str, str],
    placed: Placement,
    period_ns: float,
) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for name, macro in sorted(macros.used.items()):
        described[name] = {
            "gds": [f"pdk_dir::{pdk.layout['macro_gds'].format(name)}"],
            "lef": [f"pdk_dir::{pdk.layout['macro_lef'].format(name)}"],
            "vh": ["dir::src/macros.v"],
            "lib": {"*": [f"pdk_dir::{Path(macro.liberty).relative_to(pdk.root)}"]},
            "instances": {
                path: {"location": list(placed.corners[path]), "orientation": "N"}
                for path, kind in sorted(instances.items(), key=lambda item: _natural(item[0]))
                if kind == name
            },
        }
    return {
        "meta": {"version": 3, "flow": "Classic"},
        "DESIGN_NAME": CHIP,
        "VERILOG_FILES": [f"dir::src/{CHIP}.v"],
        "CLOCK_PORT": "clk",
        "CLOCK_PERIOD": period_ns,
        "PNR_SDC_FILE": "dir::src/implementation.sdc",
        "SIGNOFF_SDC_FILE": "dir::src/signoff.sdc",
        "FP_SIZING": "absolute",
        "DIE_AREA": [0, 0, placed.width, placed.height],
        "IO_PIN_ORDER_CFG": "dir::pin_order.cfg",
        "PL_TARGET_DENSITY_PCT": round(100 * DENSITY),
        "MACROS": described,
        "PDN_MACRO_CONNECTIONS": [
            f"{re.escape(path)} {power} {ground} {power_pin} {ground_pin}"
            for path in sorted(instances, key=_natural)
            for power, ground, power_pin, ground_pin in pdk.memories.supplies
        ],
    }


def check_project(config: Path, pdk: Pdk) -> str:
    """LibreLane's own check of a project against the kit; returns LibreLane's version.

    Raises UserError when LibreLane or its part of the kit is not there, ToolError with its words
    when it refuses the project.
    """
    try:
        from librelane.__version__ import __version__
        from librelane.config import InvalidConfig
        from librelane.flows import Flow
    except ModuleNotFoundError:
        raise UserError("librelane not found: pip install 'reticent[handoff]'") from None
    if not any((pdk.root / "libs.tech" / name).is_dir() for name in ("librelane", "openlane")):
        raise UserError(
            f"{pdk.root / 'libs.tech' / 'librelane'} is missing, without which LibreLane cannot "
            "check the project that was written: install the whole kit"
        )
    flow = Flow.factory.get("Classic")
    try:
        flow(
            str(config),
            pdk=pdk.root.name,
            pdk_root=str(pdk.root.parent),
            design_dir=str(config.parent),
        )
    except InvalidConfig as error:
        raise ToolError(f"LibreLane {__version__} refuses {config}: {error.errors[0]}") from None
    return str(__version__)


def run_flow(config: Path, pdk: Pdk) -> None:
    """From the project to GDS; raises ToolError when LibreLane fails."""
    command = [sys.executable, "-m", "librelane", "--manual-pdk"]
    command += ["--pdk-root", str(pdk.root.parent), "--pdk", pdk.root.name, str(config)]
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ToolError(
            f"librelane exited with {done.returncode}; {config.parent}/runs has its logs"
        )
