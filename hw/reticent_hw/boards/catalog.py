"""What each board is made of: device, pins, lights, button, and the tools for it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass

from amaranth.build import Attrs, Platform
from amaranth_boards import arty_a7, ecpix5, orangecrab_r0_2, ulx3s
from amaranth_boards.resources import UARTResource

from reticent.boards import Board
from reticent.presets import BoardPreset, find_preset

from . import netlist
from .memories import ShapedMemories
from .shared import SharedModules

__all__ = ["Target", "target"]


class _OpenEcp5(SharedModules, ShapedMemories):
    """The open tools' commands, with our step between synthesis and place and route."""

    @property
    def command_templates(self):
        synthesis, *rest = super().command_templates
        return [
            synthesis,
            f"{shlex.quote(sys.executable)} -m {netlist.__name__} {{{{name}}}}.json",
            *rest,
        ]


class _Ulx3s(_OpenEcp5, ulx3s.ULX3S_85F_Platform):
    pass


class _Ecpix5(_OpenEcp5, ecpix5.ECPIX585Platform):
    pass


class _OrangeCrab(_OpenEcp5, orangecrab_r0_2.OrangeCrabR0_2_85FPlatform):
    # Its USB socket is wired to the FPGA itself: the serial port is on the pins 0 (RX) and 1 (TX).
    resources = [  # noqa: RUF012 as in the class that it extends
        *orangecrab_r0_2.OrangeCrabR0_2_85FPlatform.resources,
        UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33")),
    ]


class _OpenSeries7:
    """The open tools' commands, with block memories and a clock to aim at."""

    aim = 0.0  # MHz

    @property
    def command_templates(self):
        if self.toolchain != "Xray":
            return super().command_templates
        synthesis, route, *rest = super().command_templates
        return [
            synthesis.replace(" -nobram", ""),
            route.replace("--xdc", f"--freq {self.aim:g} --xdc"),
            *rest,
        ]


class _Arty35(_OpenSeries7, ShapedMemories, arty_a7.ArtyA7_35Platform):
    pass


class _Arty100(_OpenSeries7, ShapedMemories, arty_a7.ArtyA7_100Platform):
    pass


@dataclass(frozen=True, kw_only=True)
class Target:
    """A board that designs can be built for, with all that a build needs to know."""

    board: Board
    preset: BoardPreset
    platform: Callable[..., Platform]
    button: tuple[str, int] | None  # that resets the design
    lights: tuple[tuple[str, int], ...]  # session, busy
    loader: str  # its name for openFPGALoader


_HARDWARE = {
    "ulx3s": {
        "platform": _Ulx3s,
        "button": ("button_fire", 0),
        "lights": (("led", 0), ("led", 1)),
        "loader": "ulx3s",
    },
    "ecpix5": {
        "platform": _Ecpix5,
        "button": ("rst", 0),
        "lights": (("rgb_led", 0), ("rgb_led", 1)),
        "loader": "ecpix5_r03",
    },
    "orangecrab": {
        "platform": _OrangeCrab,
        "button": ("button", 0),
        "lights": (("rgb_led", 0),),
        "loader": "orangeCrab",
    },
    "arty": {
        "platform": _Arty35,
        "button": ("rst", 0),
        "lights": (("led", 0), ("led", 1)),
        "loader": "arty_a7_35t",
    },
    "arty-a7-100": {
        "platform": _Arty100,
        "button": ("rst", 0),
        "lights": (("led", 0), ("led", 1)),
        "loader": "arty_a7_100t",
    },
}


def target(name: str) -> Target:
    """A board by name; raises UserError that lists all."""
    board, preset = find_preset(name)
    return Target(board=board, preset=preset, **_HARDWARE[name])
