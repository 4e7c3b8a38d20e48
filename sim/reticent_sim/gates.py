"""The netlist of the core under Verilator: equal to the golden model, and what every net did."""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from reticent_hw.asic.frames import Activity, Frame, turns
from reticent_hw.asic.macros import MacroLibrary
from reticent_hw.asic.netlist import Netlist
from reticent_hw.asic.pdk import Pdk
from reticent_hw.asic.synthesis import NETLIST, yosys
from reticent_hw.core import Core
from reticent_hw.export import TOP, sidecar

from .backend import SimTransport
from .build import CORE_HARNESS, model

__all__ = ["METHOD", "GateSimulation", "measure_frames", "read_counts"]

METHOD = (
    "netlist under Verilator without delays, equal to the golden model; changes of each cell's "
    "output times its power at one transition a cycle by OpenSTA, plus its power at none while its "
    "clock ticks, plus the charge of its clock pin; memories: counted reads and writes times their "
    "energy"
)

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
MODEL, GATE = "gates.v", "clock_gate.v"
# Its level is that of the enable at the end of the low half of the clock; Liberty files describe it
# by a table that Yosys does not read.
CLOCK_GATE = """\
module {cell} ({ports});
reg ticks_0;
always_latch if (!{clock}) ticks_0 = {enable};
assign {gated} = {clock} & ticks_0;
endmodule
"""


class GateSimulation:
    """The core's netlist, as the chip in `folder` has it, with a kit's macros."""

    def __init__(
        self,
        config: BuildConfig,
        image: Image,
        pdk: Pdk,
        macros: MacroLibrary,
        folder: Path,
        netlist: Netlist,
    ) -> None:
        self._folder, self._netlist = folder, netlist
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
        counts = read_counts(path.read_text(), {*self._netlist.macros, *self._netlist.gates})
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


def measure_frames(
    simulation: GateSimulation,
    network: QuantisedNetwork,
    frames: Sequence[npt.NDArray[np.uint8]],
    thresholds: Sequence[float],
    say: Callable[[str], None],
) -> Iterator[Frame]:
    """The frames that `turns` shows, on the netlist.

    Raises ToolError at the first difference from the golden model, in outputs, events or
    multiplications.
    """
    golden, device = Golden(network), simulation.device
    say("loading")
    device.reset()
    golden.reset()
    for turn in turns(network, frames, thresholds):
        if turn.number == 0:
            counts = list(network.with_thresholds(turn.threshold).thresholds)
            device.set_thresholds(counts)
            golden.set_thresholds(counts)
        name = f"T = {turn.threshold:g}, frame {turn.number + 1}"
        say(f"{name} of {len(frames)}")
        simulation.forget()
        expected, got = golden.step(turn.pixels), device.step(turn.pixels)
        if (
            not np.array_equal(expected.outputs, got.outputs)
            or expected.events != list(got.events)
            or expected.significant != list(got.significant)
        ):
            raise ToolError(f"the netlist differs from the golden model at {name}")
        if turn.shown:
            yield Frame(turn.threshold, turn.anew, sum(got.significant), simulation.activity())
