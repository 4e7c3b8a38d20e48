"""The netlist of the core under Verilator: equal to the golden model, and what every net did."""

from __future__ import annotations

import ctypes
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reticent.accelerator import Accelerator
from reticent.config import BuildConfig
from reticent.errors import ToolError, UserError
from reticent.golden import Golden
from reticent.image import Image
from reticent.quantise import QuantisedNetwork
from reticent_hw.asic.design import CHIP, LANE
from reticent_hw.asic.macros import MacroLibrary
from reticent_hw.asic.pdk import Pdk
from reticent_hw.asic.report import ClockPin
from reticent_hw.asic.synthesis import NETLIST, yosys
from reticent_hw.core import Core
from reticent_hw.export import TOP, sidecar

from .backend import SimTransport
from .build import CORE_HARNESS, model

__all__ = [
    "Activity",
    "GateSimulation",
    "MeasuredFrame",
    "measure_frames",
    "read_counts",
    "read_netlist",
]

HARNESS = Path(__file__).with_name("gates.cpp")
OPTIONS = (
    "--hierarchical",
    "--x-initial",
    "unique",
    "-Wno-UNOPTFLAT",  # bits of a bus, cell by cell
)
# The end of the model's text: every net keeps its name, so that it can be watched, and a lane is
# compiled once, so that 16 of them take no longer than one.
WATCHED = f"""\
`verilator_config
public_flat_rd -module "*" -var "*"
hier_block -module "{LANE}"
"""
# In the name of what is inside of a lane its module's follows the instance's. Others are of
# Verilator's making: the shell by which the core sees the lane, and the lane's ports.
OF_A_LANE = re.compile(rf"(lane_\d+\.)({LANE}\.)?")
MODEL, CELLS, GATE = "gates.v", "gates.json", "clock_gate.v"
# Its level is that of the enable at the end of the low half of the clock; Liberty files describe it
# by a table that Yosys does not read.
CLOCK_GATE = """\
module {cell} ({ports});
reg ticks_0;
always_latch if (!{clock}) ticks_0 = {enable};
assign {gated} = {clock} & ticks_0;
endmodule
"""


@dataclass(frozen=True)
class Activity:
    """What happened in a number of clock cycles, seen in `sampled` of them and scaled up.

    By path below the core ("lane_0/parts/weights/memory/rows/macro_0_0"): `changes` of the first
    output of every cell (of a clock gate: of its enable), `reads` and `writes` of every macro, and
    `ticks` of every clock gate.
    """

    cycles: int
    sampled: int
    changes: Mapping[str, float]
    reads: Mapping[str, float]
    writes: Mapping[str, float]
    ticks: Mapping[str, float]


class GateSimulation:
    """The core's netlist, as the chip in `folder` has it, with a kit's macros."""

    def __init__(
        self, config: BuildConfig, image: Image, pdk: Pdk, macros: MacroLibrary, folder: Path
    ) -> None:
        self._folder = folder
        text = _verilog(config, pdk, macros, folder)
        digest = hashlib.sha256(text.encode() + HARNESS.read_bytes() + CORE_HARNESS.read_bytes())
        path = model(
            f"gates-{pdk.name}-{config.lanes}-lanes-{digest.hexdigest()[:12]}",
            f"the netlist in {pdk.name} ({config.lanes} lanes)",
            TOP,
            HARNESS,
            lambda: text,
            OPTIONS,
            effort="-O1",
        )
        self._transport = SimTransport(config, path, seed=1)
        lib = self._transport.library
        lib.reticent_forget.argtypes = [ctypes.c_void_p]
        lib.reticent_counts.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        lib.reticent_counts.restype = ctypes.c_int64
        self.device = Accelerator("sim", self._transport, image)
        design = json.loads((folder / CELLS).read_text())
        self._netlist = read_netlist(design, set(macros.used), pdk.cells.clock_gate)
        self.macros, self.clocks = self._netlist.macros, self._netlist.clocks
        self._since = 0

    def forget(self) -> None:
        """Begin to count anew."""
        self._transport.library.reticent_forget(self._transport.device)
        self._since = self._transport.cycles

    def activity(self) -> Activity:
        """What happened since `forget`; some hundred cycles at least."""
        path = self._folder / "activity.tsv"
        cycles = self._transport.cycles - self._since
        sampled = self._transport.library.reticent_counts(
            self._transport.device, str(path).encode()
        )
        if sampled < 0:
            raise UserError(f"{path} cannot be written: give another folder")
        if not sampled:
            raise ToolError(f"no activity was seen in {cycles} cycles")
        counts = read_counts(path.read_text(), {*self.macros, *self._netlist.gates})
        scale = cycles / sampled

        def scaled(numbers: Mapping[str, int]) -> dict[str, float]:
            return {path: scale * number for path, number in numbers.items()}

        nets = scaled(counts["changes"])
        return Activity(
            cycles,
            sampled,
            {cell: nets[net] for cell, net in self._netlist.nets.items() if net in nets},
            scaled(counts["reads"]),
            scaled(counts["writes"]),
            scaled(counts["ticks"]),
        )


def read_counts(text: str, counted: Collection[str]) -> dict[str, dict[str, int]]:
    """`changes` of nets, and `reads`, `writes` and `ticks` of the macros and clock gates `counted`,
    by path below the core.

    `text` is what gates.cpp writes; all ports of a macro are added up.
    """
    nets: dict[str, int] = {}
    uses: dict[str, dict[str, int]] = {"reads": {}, "writes": {}, "ticks": {}}
    for line in text.splitlines():
        name, _, number = line.rpartition("\t")
        name = name.partition(f"{TOP}.core.")[2]
        if lane := OF_A_LANE.match(name):
            if not lane[2]:
                continue
            name = lane[1] + name[lane.end() :]
        scope, _, leaf = name.replace(".", "/").rpartition("/")
        kind = leaf.partition("_")[0]
        if scope not in counted:
            nets[f"{scope}/{leaf}" if scope else leaf] = int(number)
        elif kind in uses:
            uses[kind][scope] = uses[kind].get(scope, 0) + int(number)
    return {"changes": nets, **uses}


def _verilog(config: BuildConfig, pdk: Pdk, macros: MacroLibrary, folder: Path) -> str:
    """The netlist with its cells as expressions, the macros' models, and the core's ports.

    Cells that only pass a level on stay cells, so that the nets behind them keep their names.
    """
    gate = _clock_gate(pdk)
    (folder / GATE).write_text(gate)
    script = f"""\
read_verilog {NETLIST}
setattr -mod -set keep_hierarchy 1 *
read_liberty -overwrite -ignore_miss_func {pdk.cells_lib}
read_verilog -lib macros.v
read_verilog -sv -lib {GATE}
hierarchy -check -top {CHIP}.core
proc
write_json {CELLS}
insbuf
setattr -set keep 1 t:$_BUF_
flatten
rename -hide w:*.*
opt_clean
write_verilog -noattr {MODEL}
"""
    yosys(script, folder, "gates.log")
    text = (folder / MODEL).read_text()
    models = [macro.model() for _, macro in sorted(macros.used.items())]
    models.append(gate)
    ports = sidecar(Core(config))["ports"]
    header = ", ".join(f"{p['direction']} [{p['width'] - 1}:0] {p['name']}" for p in ports)
    pins = ", ".join(
        f".{'core_' if p['name'] in ('clk', 'rst') else ''}{p['name']}({p['name']})" for p in ports
    )
    wrapper = f"module {TOP}({header});\n  \\{CHIP}.core core ({pins});\nendmodule\n"
    return "\n".join([wrapper, text, *models, WATCHED])


def _clock_gate(pdk: Pdk) -> str:
    """The model of the kit's clock gate; empty if it has none."""
    if pdk.cells.clock_gate is None:
        return ""
    cell, enable, clock, gated, *low = pdk.cells.clock_gate
    ports = ", ".join([f"output {gated}", *(f"input {pin}" for pin in (enable, clock, *low))])
    return CLOCK_GATE.format(cell=cell, ports=ports, enable=enable, clock=clock, gated=gated)


@dataclass(frozen=True)
class Netlist:
    """By path below the core: the kind of each macro; the net at each cell's first output; the
    clock pin of each cell that has one; and the clock gates."""

    macros: Mapping[str, str]
    nets: Mapping[str, str]
    clocks: Mapping[str, ClockPin]
    gates: Collection[str]


def read_netlist(design: Mapping, kinds: set[str], gate: Sequence[str] | None) -> Netlist:
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
                found.gates.add(f"{path}{name}".replace(".", "/"))
                clocks[cell["connections"][gated][0]] = f"{path}{name}".replace(".", "/")
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


@dataclass(frozen=True)
class MeasuredFrame:
    """One frame on the netlist: equal to the golden model, or `measure_frames` had raised."""

    threshold: float
    anew: bool  # the first frame after a reset: everything is computed
    cycles: int  # from the last pixel to the answer
    significant: int
    activity: Activity  # its transfer included


def measure_frames(
    simulation: GateSimulation,
    network: QuantisedNetwork,
    frames: Sequence[npt.NDArray[np.uint8]],
    thresholds: Sequence[float],
    say: Callable[[str], None],
) -> Iterator[MeasuredFrame]:
    """The first frame from a reset; then, for each threshold (real units), all frames: those that
    fill the stack anew are not reported, the others are.

    So the same frames are compared. The device goes on from one threshold to the next. Raises
    ToolError at the first difference from the golden model, in outputs, events or multiplications.
    """
    golden, device = Golden(network), simulation.device
    filled = network.input.stack
    say("loading")
    device.reset()
    golden.reset()
    for turn, threshold in enumerate(thresholds):
        counts = list(network.with_thresholds(threshold).thresholds)
        device.set_thresholds(counts)
        golden.set_thresholds(counts)
        for i, frame in enumerate(frames):
            say(f"T = {threshold:g}, frame {i + 1} of {len(frames)}")
            anew = turn == 0 and i == 0
            simulation.forget()
            expected, got = golden.step(frame), device.step(frame)
            if (
                not np.array_equal(expected.outputs, got.outputs)
                or expected.events != list(got.events)
                or expected.significant != list(got.significant)
            ):
                raise ToolError(
                    f"the netlist differs from the golden model at T = {threshold:g}, frame {i + 1}"
                )
            if anew or i >= filled:
                assert got.cycles is not None
                yield MeasuredFrame(
                    threshold, anew, got.cycles.total, sum(got.significant), simulation.activity()
                )
