"""The top of a board's design: its clock, its reset, its pins around `System`."""

from amaranth import *
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from ..link.link import Link
from ..link.system import System
from .catalog import Target
from .clocks import Ecp5Pll, Series7Pll

__all__ = ["BoardTop", "system"]


def system(target: Target) -> System:
    """What runs on a board, without its pins."""
    board, preset = target.board, target.preset
    link = Link(
        preset.config,
        name=board.name,
        clock=board.clock_hz,
        baud=preset.baud,
        request_bytes=preset.request_bytes,
        reply_bytes=preset.reply_bytes,
    )
    return System(link)


class BoardTop(Elaboratable):
    """A complete design. The first light: a driver has a session; the second: a request is worked
    on. The button resets everything but the boot counter."""

    def __init__(self, target: Target):
        self._target = target

    def elaborate(self, platform):
        m = Module()
        target, board = self._target, self._target.board
        pll_type = Ecp5Pll if board.device.family == "ecp5" else Series7Pll

        def pin(name: str, number: int, direction: str, *, only: str | None = None):
            port = platform.request(name, number, dir="-")
            port = getattr(port, only) if only else port
            m.submodules[f"{name}_{number}"] = buffer = io.Buffer(direction, port)
            return buffer

        m.submodules.pll = pll = pll_type(board.oscillator_hz, board.clock_hz)
        m.d.comb += pll.clk_in.eq(pin(platform.default_clk, 0, "i").i)
        m.domains.sync = sync = ClockDomain()
        platform.add_clock_constraint(pll.clk_out, board.clock_hz)
        reset = Signal()
        m.d.comb += [sync.clk.eq(pll.clk_out), reset.eq(~pll.locked)]
        if target.button:
            m.d.comb += reset.eq(~pll.locked | pin(*target.button, "i").i)
        m.submodules.reset = ResetSynchronizer(reset, domain="sync")

        m.submodules.system = inside = system(target)
        serial = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", serial.rx)
        m.submodules.tx = tx = io.Buffer("o", serial.tx)
        m.d.comb += [inside.rx.eq(rx.i), tx.o.eq(inside.tx)]
        for (name, number), state in zip(
            target.lights, (inside.session, inside.busy), strict=False
        ):
            part = "g" if name == "rgb_led" else None
            m.d.comb += pin(name, number, "o", only=part).o.eq(state)
        return m
