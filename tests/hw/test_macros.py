"""Kits, their macros, and what memories become."""

import pytest

from reticent.errors import ToolError, UserError
from reticent_hw.asic.builds import silicon_build
from reticent_hw.asic.design import chip_verilog, core_of_chip_verilog, without_initial_values
from reticent_hw.asic.macros import MOST_BANKS, MacroLibrary, Request
from reticent_hw.asic.pdk import find_pdk, pdk_names

pytest.importorskip("liberty", reason="needs the extra `asic`")


@pytest.fixture
def ihp(ihp_root):
    return MacroLibrary(find_pdk("ihp-sg13g2", root=ihp_root))


@pytest.fixture
def osu(osu_root):
    return MacroLibrary(find_pdk("osu018", root=osu_root))


def test_liberty_is_read(ihp):
    macro = next(m for m in ihp.macros if "2P_1024x16" in m.name)
    assert (macro.rows, macro.bits, len(macro.ports)) == (1024, 16, 2)
    assert macro.area == 2000 + 5 * 1024 * 16
    # A clock's rise and fall.
    assert (macro.read_pj, macro.write_pj) == (10.5, 12.5)
    assert macro.leakage_uw == pytest.approx(0.12)
    assert {pin.name for pin in macro.pins if pin.output} == {"A_DOUT", "B_DOUT"}


@pytest.mark.parametrize(
    ("request_", "banks", "columns"),
    [
        (Request(rows=4000, bits=18, reads=1, loaded=True), 2, ["2048x8"] * 3),
        (Request(rows=100, bits=30, reads=1, loaded=True), 1, ["128x16", "128x16"]),
        (Request(rows=1024, bits=20, reads=2, loaded=True), 1, ["1024x16", "1024x8"]),
        (Request(rows=1500, bits=8, reads=1, loaded=False), 2, ["1024x8"]),
        (Request(rows=60, bits=22, reads=1, loaded=False), 1, ["64x22"]),
    ],
)
def test_least_area(ihp, request_, banks, columns):
    chosen = ihp.arrange(request_)
    assert chosen.banks == banks
    assert [macro.name.split("_")[3] for macro in chosen.columns] == columns
    assert all(len(macro.ports) == request_.ports for macro in chosen.columns)
    assert set(ihp.used) == {macro.name for macro in chosen.columns}


def test_too_deep_is_refused(ihp):
    rows = 4096 * MOST_BANKS + 1
    with pytest.raises(UserError, match=r"131,073 rows of 8 bits .* give more lanes"):
        ihp.arrange(Request(rows=rows, bits=8, reads=1, loaded=True))


def test_ports_that_nothing_has_are_refused(ihp):
    with pytest.raises(UserError, match="no SRAM macro with 3 ports"):
        ihp.arrange(Request(rows=64, bits=8, reads=2, loaded=False))


def test_black_boxes_are_what_is_asked_for(osu):
    request = Request(rows=300, bits=17, reads=2, loaded=True)
    (macro,) = osu.arrange(request).columns
    assert (macro.name, macro.area) == ("reticent_sram_2rw_300x17", None)
    assert macro.read_pj > 0
    assert "bus (a_addr) { bus_type : b9" in macro.liberty


@pytest.mark.parametrize("name", ["ihp", "osu"])
def test_chip_has_no_initial_value_and_only_its_macros(request, name):
    library = request.getfixturevalue(name)
    config = silicon_build(2, weight_depth=4096, state_depth_even=512, state_depth_odd=512)
    text = chip_verilog(config, library, clock_hz=50_000_000)
    assert "module reticent_chip(" in text
    assert " reg " in text
    assert "init = " not in text
    assert not [
        line for line in text.splitlines() if line.lstrip().startswith("reg ") and "=" in line
    ]
    for macro in library.used:
        assert f"  {macro} " in text
    # What is read at once, and what is small, stays.
    assert "reticent_memory_async" in text
    assert core_of_chip_verilog(config, library).count("module reticent_lane(") == 1


def test_memory_with_contents_is_refused():
    with pytest.raises(ValueError, match="initial values"):
        without_initial_values("module x;\n  initial begin\n  end\nendmodule")


def test_model_of_a_macro(ihp):
    macro = next(m for m in ihp.macros if "2P_64x22" in m.name)
    text = macro.model()
    assert text.startswith("module RM_IHPSG13_2P_64x22_c2_bm_bist (")
    assert "cover property (@(posedge B_CLK)" in text
    assert macro.stub().startswith("(* blackbox *)")


# Kits.


def test_every_kit_is_described(tmp_path, monkeypatch):
    assert pdk_names() == ["gf180", "ihp-sg13g2", "osu018", "sky130"]
    for name in pdk_names():
        if name != "osu018":  # which may be installed
            with pytest.raises(UserError, match=f"PDK {name} was not found: {tmp_path}"):
                find_pdk(name, root=tmp_path)


def test_linked_files_are_found_where_they_lie(osu_root, tmp_path):
    kit = tmp_path / "osu018"
    kit.mkdir()
    cells = find_pdk("osu018", root=osu_root).cells_lib
    (kit / cells.name).symlink_to(cells)
    assert find_pdk("osu018", root=tmp_path).cells_lib == cells


def test_unknown_names(osu_root):
    with pytest.raises(UserError, match="'tsmc' is not known: give one of gf180"):
        find_pdk("tsmc")
    with pytest.raises(UserError, match="no corner 'fast': give one of typ"):
        find_pdk("osu018", root=osu_root, corner="fast")


def test_root_is_asked_for(monkeypatch):
    monkeypatch.delenv("PDK_ROOT", raising=False)
    with pytest.raises(UserError, match=r"PDK_ROOT is not set: .* the folder that holds sky130A/"):
        find_pdk("sky130")


def test_missing_liberty(tmp_path):
    (tmp_path / "sky130A").mkdir()
    with pytest.raises(UserError, match=r"tt_025C_1v80.lib is missing: pip install ciel"):
        find_pdk("sky130", root=tmp_path)
    cells = tmp_path / "sky130A/libs.ref/sky130_fd_sc_hd/lib"
    cells.mkdir(parents=True)
    (cells / "sky130_fd_sc_hd__tt_025C_1v80.lib").write_text("")
    with pytest.raises(UserError, match="no SRAM macro"):
        find_pdk("sky130", root=tmp_path)


def test_damaged_liberty(tmp_path, ihp_root):
    kit = tmp_path / "ihp-sg13g2/libs.ref"
    (kit / "sg13g2_stdcell/lib").mkdir(parents=True)
    (kit / "sg13g2_sram/lib").mkdir(parents=True)
    (kit / "sg13g2_stdcell/lib/sg13g2_stdcell_typ_1p20V_25C.lib").write_text("")
    bad = kit / "sg13g2_sram/lib/RM_IHPSG13_1P_64x8_c2_typ_1p20V_25C.lib"
    bad.write_text("library (x) { cell (RM_IHPSG13_1P_64x8_c2) { area")
    library = MacroLibrary(find_pdk("ihp-sg13g2", root=tmp_path))
    with pytest.raises(ToolError, match=r"1P_64x8_c2_typ_1p20V_25C.lib cannot be understood"):
        library.arrange(Request(rows=64, bits=8, reads=1, loaded=True))


# The form of OpenRAM's files: a port that only reads, active-low controls, mW.
OPENRAM = """library ({name}_TT_1p8V_25C_lib) {{
  time_unit : "1ns"; voltage_unit : "1V"; leakage_power_unit : "1mW";
  capacitive_load_unit (1, pF);
  type (data) {{ base_type : array; data_type : bit; bit_width : {bits}; bit_from : {top}; }}
  type (addr) {{ base_type : array; data_type : bit; bit_width : {address}; }}
  type (wmask) {{ base_type : array; data_type : bit; bit_width : 4; }}
  cell ({name}) {{
    memory () {{ type : ram; address_width : {address}; word_width : {bits}; }}
    area : {area};
    pg_pin (vccd1) {{ voltage_name : VCCD1; pg_type : primary_power; }}
    leakage_power () {{ value : 0.0009; }}
    cell_leakage_power : 0.0009;
    bus (din0) {{ bus_type : data; direction : input; pin (din0[{top}:0]) {{ }} }}
    bus (dout0) {{ bus_type : data; direction : output; }}
    bus (addr0) {{ bus_type : addr; direction : input; }}
    bus (wmask0) {{ bus_type : wmask; direction : input; }}
    pin (csb0) {{ direction : input; }}
    pin (web0) {{ direction : input; }}
    pin (clk0) {{
      clock : true; direction : input;
      internal_power () {{ when : "!csb0 & !web0";
        rise_power (scalar) {{ values ("2.2"); }} fall_power (scalar) {{ values ("2.4"); }} }}
      internal_power () {{ when : "csb0 & web0";
        rise_power (scalar) {{ values ("1.0"); }} fall_power (scalar) {{ values ("1.0"); }} }}
      internal_power () {{ when : "!csb0 & web0";
        rise_power (scalar) {{ values ("2.5"); }} fall_power (scalar) {{ values ("2.0"); }} }}
    }}
    bus (dout1) {{ bus_type : data; direction : output; }}
    bus (addr1) {{ bus_type : addr; direction : input; }}
    pin (csb1) {{ direction : input; }}
    pin (clk1) {{ clock : true; direction : input; }}
  }}
}}
"""


def test_sky130_with_its_macros(tmp_path):
    kit = tmp_path / "sky130A/libs.ref"
    (kit / "sky130_fd_sc_hd/lib").mkdir(parents=True)
    (kit / "sky130_fd_sc_hd/lib/sky130_fd_sc_hd__tt_025C_1v80.lib").write_text("")
    (kit / "sky130_sram_macros/lib").mkdir(parents=True)
    for size, bits, rows in (("1kbyte", 32, 256), ("2kbyte", 32, 512), ("1kbyte", 8, 1024)):
        name = f"sky130_sram_{size}_1rw1r_{bits}x{rows}_8"
        address = (rows - 1).bit_length()
        text = OPENRAM.format(
            name=name, bits=bits, top=bits - 1, address=address, area=6.0 * rows * bits
        )
        (kit / f"sky130_sram_macros/lib/{name}_TT_1p8V_25C.lib").write_text(text)
    library = MacroLibrary(find_pdk("sky130", root=tmp_path))
    macro = next(m for m in library.macros if (m.rows, m.bits) == (256, 32))
    assert (macro.read_pj, macro.write_pj) == (4.5, pytest.approx(4.6))
    assert macro.leakage_uw == pytest.approx(0.9)
    assert "input [3:0] wmask0" in macro.stub()
    # Neurons: written through the first port, read through the second one.
    core = core_of_chip_verilog(silicon_build(4), library)
    assert set(library.used) <= {m.name for m in library.macros}
    used = next(name for name in library.used if core.count(name))
    instance = core[core.index(f"  {used} ") :]
    instance = instance[: instance.index(");")]
    assert all(f".{pin}(" in instance for pin in ("clk0", "csb0", "web0", "wmask0", "csb1"))


def test_gf180_has_black_boxes(tmp_path):
    cells = tmp_path / "gf180mcuD/libs.ref/gf180mcu_fd_sc_mcu7t5v0/lib"
    cells.mkdir(parents=True)
    (cells / "gf180mcu_fd_sc_mcu7t5v0__tt_025C_3v30.lib").write_text("")
    library = MacroLibrary(find_pdk("gf180", root=tmp_path))
    chosen = library.arrange(Request(rows=1000, bits=20, reads=1, loaded=False))
    assert [macro.name for macro in chosen.columns] == ["reticent_sram_2rw_1000x20"]
    assert chosen.area is None
