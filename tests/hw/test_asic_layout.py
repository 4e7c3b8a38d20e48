"""What is read from a layout, and its picture; the layout itself is `make asic-layout`."""

import shutil

import pytest

from reticent.errors import ToolError, UserError
from reticent_hw.asic.pdk import find_pdk

pytest.importorskip("klayout", reason="needs the extra `layout`")

from klayout import lay

from reticent_hw.asic.layout import (
    COLOURS,
    LAYOUT_BUILD,
    PIXELS,
    check_layout_tools,
    number,
    pictures,
    read_def,
    single_bits,
)

LEF = """VERSION 5.6 ;
LAYER metal1
  TYPE ROUTING ; DIRECTION HORIZONTAL ; PITCH 1 ; WIDTH 0.4 ; SPACING 0.3 ;
END metal1
LAYER metal2
  TYPE ROUTING ; DIRECTION VERTICAL ; PITCH 1 ; WIDTH 0.4 ; SPACING 0.3 ;
END metal2
MACRO INV
  CLASS CORE ; ORIGIN 0 0 ; SIZE 4 BY 10 ;
  PIN A
    DIRECTION INPUT ;
    PORT
      LAYER metal1 ;
        RECT 1 4 3 8 ;
    END
  END A
END INV
MACRO FILL
  CLASS CORE ; ORIGIN 0 0 ; SIZE 2 BY 10 ;
END FILL
END LIBRARY
"""
DEF = """VERSION 5.6 ;
DESIGN lane ;
UNITS DISTANCE MICRONS 100 ;
DIEAREA ( -100 0 ) ( 1900 1000 ) ;
COMPONENTS 3 ;
- INV_1 INV + PLACED ( 0 0 ) N ;
- FILL_1 FILL + PLACED ( 400 0 ) N ;
- INV_2 INV + PLACED ( 1400 0 ) N ;
END COMPONENTS
NETS 2 ;
- a
  ( INV_1 A )
  ( INV_2 A )
+ ROUTED metal1 ( 200 500 ) ( 1600 * )
  NEW metal2 ( 200 500 ) ( * 800 ) ( 300 * ) ;
- b
  ( INV_1 A ) ;
END NETS
END DESIGN
"""


def test_def_is_read():
    found = read_def(DEF)
    assert found == {
        "cells": 2,
        "fillers": 1,
        "nets": 2,
        "die_um2": 200.0,
        "wire_um": 14.0 + 3.0 + 1.0,
    }


def test_pictures(tmp_path):
    (tmp_path / "lane.def").write_text(DEF)
    (tmp_path / "cells.lef").write_text(LEF)
    pictures(tmp_path / "lane.def", tmp_path / "cells.lef", tmp_path)
    colours = {}
    for name in ("layout.png", "detail.png"):
        picture = lay.PixelBuffer.read_png(str(tmp_path / name))
        assert picture.width() == PIXELS
        colours[name] = {
            picture.pixel(x, y) & 0xFFFFFF
            for x in range(0, PIXELS, 7)
            for y in range(0, picture.height(), 7)
        }
    assert {COLOURS["metal1"], COLOURS["metal2"], 0xFFFFFF} <= colours["layout.png"]
    assert COLOURS["metal2"] not in colours["detail.png"]


def test_ports_of_a_bit():
    found = single_bits(LAYOUT_BUILD)
    assert {"layer", "go", "rst"} <= set(found)
    assert "change" not in found


def test_what_a_tool_does_not_say():
    assert number(r"drc = (\d+)", "x\ndrc = 29\n") == 29
    with pytest.raises(ToolError, match=r"does not say .*: broken pipe"):
        number(r"drc = (\d+)", "magic\nbroken pipe\n\n")


def test_refused(ihp_root, osu_root, monkeypatch):
    with pytest.raises(UserError, match="PDK ihp-sg13g2 is not one of qflow's: give osu018"):
        check_layout_tools(find_pdk("ihp-sg13g2", root=ihp_root))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="qflow not found: apt-get install qflow"):
        check_layout_tools(find_pdk("osu018", root=osu_root))
