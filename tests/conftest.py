"""What several folders of tests share."""

import pytest

CLOCK = """
    internal_power () {{
      when : "{when}"; rise_power (scalar) {{ values ({rise}); }}
      fall_power (scalar) {{ values (0.5); }}
    }}"""
PIN = "\n  {kind} ({p}_{name}) {{ {type} direction : input; capacitance : 0.004; }}"
PORT = """
  pin ({p}_CLK) {{ direction : input; clock : true; capacitance : 0.004;{energies}
  }}{inputs}
  bus ({p}_DOUT) {{
    bus_type : D; direction : output;
    timing () {{
      related_pin : "{p}_CLK"; timing_type : rising_edge;
      cell_rise (scalar) {{ values (2.0); }} cell_fall (scalar) {{ values (2.0); }}
      rise_transition (scalar) {{ values (0.1); }} fall_transition (scalar) {{ values (0.1); }}
    }}
  }}
"""
TYPE = """
  type ({name}) {{
    base_type : array; data_type : bit; bit_width : {width}; bit_from : {top}; bit_to : 0;
    downto : true;
  }}"""
SINGLE, BUSES = ("DLY", "MEN", "WEN", "REN"), (("ADDR", "A"), ("DIN", "D"), ("BM", "D"))
MACRO = """library ({name}) {{
  delay_model : table_lookup; time_unit : "1ns"; voltage_unit : "1V"; current_unit : "1uA";
  leakage_power_unit : "1nW"; pulling_resistance_unit : "1kohm"; capacitive_load_unit (1, pf);
  {types}
  cell ({name}) {{
  area : {area};
  cell_leakage_power : 120.0;
  {ports}
  }}
}}
"""


def macro_liberty(ports: int, rows: int, bits: int) -> tuple[str, str]:
    """Name and Liberty of a macro that nobody makes, named and wired like those of IHP."""
    name = f"RM_IHPSG13_{ports}P_{rows}x{bits}_c2_bm_bist"
    address = (rows - 1).bit_length()
    text = ""
    for p in "AB"[:ports]:
        cases = (f"!{p}_MEN", 0.1), (f"{p}_MEN & {p}_WEN & !{p}_REN", 12.0)
        cases += ((f"{p}_MEN & !{p}_WEN & {p}_REN", 10.0),)
        energies = "".join(CLOCK.format(when=when, rise=rise) for when, rise in cases)
        inputs = "".join(PIN.format(kind="pin", p=p, name=n, type="") for n in SINGLE)
        inputs += "".join(
            PIN.format(kind="bus", p=p, name=n, type=f"bus_type : {t};") for n, t in BUSES
        )
        text += PORT.format(p=p, energies=energies, inputs=inputs)
    types = "".join(
        TYPE.format(name=n, width=w, top=w - 1) for n, w in (("A", address), ("D", bits))
    )
    area = 1000 * ports + 2.5 * ports * rows * bits
    text = MACRO.format(name=name, types=types, area=area, ports=text)
    return name, text


@pytest.fixture(scope="session")
def ihp_root(tmp_path_factory):
    """A PDK_ROOT in the layout of IHP's kit, with a few small macros and no standard cells.

    The macros are small, so that memories of tests take several of them.
    """
    root = tmp_path_factory.mktemp("pdk")
    kit = root / "ihp-sg13g2" / "libs.ref"
    for folder in ("sg13g2_stdcell/lib", "sg13g2_sram/lib"):
        (kit / folder).mkdir(parents=True)
    (kit / "sg13g2_stdcell/lib/sg13g2_stdcell_typ_1p20V_25C.lib").write_text("")
    for ports, rows, bits in (
        (1, 128, 16),
        (1, 2048, 8),
        (1, 4096, 16),
        (2, 64, 22),
        (2, 1024, 16),
        (2, 1024, 8),
        (2, 4096, 16),
    ):
        name, text = macro_liberty(ports, rows, bits)
        (kit / f"sg13g2_sram/lib/{name}_typ_1p20V_25C.lib").write_text(text)
    return root


@pytest.fixture(scope="session")
def osu_root(tmp_path_factory):
    """A PDK_ROOT with the OSU kit, without standard cells: every memory is a black box."""
    root = tmp_path_factory.mktemp("pdk")
    (root / "osu018").mkdir()
    (root / "osu018" / "osu018_stdcells.lib").write_text("")
    return root
