"""The Verilog of a chip: the core, core and link, or a lane, without a single initial value."""

from __future__ import annotations

import re

from reticent.config import BuildConfig
from reticent_hw.core import Core
from reticent_hw.export import component_verilog, core_verilog
from reticent_hw.lane import Lane
from reticent_hw.link.link import Link
from reticent_hw.link.system import System

from .macros import MacroLibrary
from .memories import AsicPlatform

__all__ = [
    "CHIP",
    "LANE",
    "chip_verilog",
    "core_of_chip_verilog",
    "lane_verilog",
    "without_initial_values",
]

CHIP, LANE = "reticent_chip", "reticent_lane"
BAUD = 3_000_000

# How Amaranth's back end writes the initial value of a register: with it, and as an attribute.
INITIAL = re.compile(r"^(\s*reg\b[^=;]*?) = [^;]*;$", re.MULTILINE)
ATTRIBUTE = re.compile(r"^\s*\(\* init = [^*]* \*\)\n", re.MULTILINE)


def without_initial_values(verilog: str) -> str:
    """Verilog of Amaranth's back end in which registers hold nothing until they are reset."""
    text = ATTRIBUTE.sub("", INITIAL.sub(r"\1;", verilog))
    if re.search(r"^\s*initial\b|\binit\b", text, re.MULTILINE):
        raise ValueError("a memory is left whose rows have initial values")
    return text


def chip_verilog(config: BuildConfig, library: MacroLibrary, *, clock_hz: int) -> str:
    """Core, link and serial port: the module `CHIP`. Macros are only instances."""
    system = System(Link(config, name="asic", clock=clock_hz, baud=BAUD))
    platform = AsicPlatform(library)
    return _checked(component_verilog(system, CHIP, platform=platform), platform)


def core_of_chip_verilog(config: BuildConfig, library: MacroLibrary) -> str:
    """The core alone: the module `reticent_hw.export.TOP`."""
    platform = AsicPlatform(library)
    return _checked(core_verilog(Core(config), platform=platform), platform)


def lane_verilog(config: BuildConfig, library: MacroLibrary) -> str:
    """A lane alone: the module `LANE`."""
    platform = AsicPlatform(library)
    return _checked(component_verilog(Lane(config), LANE, platform=platform), platform)


def _checked(verilog: str, platform: AsicPlatform) -> str:
    if platform.refusal:
        raise platform.refusal
    return without_initial_values(verilog)
