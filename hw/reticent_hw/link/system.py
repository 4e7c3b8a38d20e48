"""The whole design behind a board's pins: core, link, serial port."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ..core import Core
from .link import Link
from .register import StreamRegister
from .uart import UartReceiver, UartTransmitter

__all__ = ["System"]


class System(wiring.Component):
    """Core and link on a serial port; what a board adds is a clock, a reset and pins.

    Parameters
    ----------
    link : what the board says and how it listens; its clock and baud are those of the `sync` domain
        and the serial port, its build that of the core

    Members
    -------
    rx, tx : serial data from and to the host
    session, busy : for lights; see `Link`
    """

    def __init__(self, link: Link):
        self.link = link
        self.core = Core(link.config)
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "session": Out(1), "busy": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.link = link = self.link
        uart = link.clock, link.baud
        m.submodules.receiver = receiver = UartReceiver(*uart)
        m.submodules.transmitter = transmitter = UartTransmitter(*uart)

        # The link can reset the core: a domain of the same clock with a reset of its own.
        m.domains.core = domain = ClockDomain(local=True)
        resetting = Signal(init=1)
        m.d.sync += resetting.eq(link.core_reset)
        m.d.comb += [domain.clk.eq(ClockSignal()), domain.rst.eq(resetting)]
        m.submodules.core = DomainRenamer("core")(self.core)

        connect(m, receiver.bytes, link.received)
        connect(m, link.sent, transmitter.bytes)
        # Registers of the core's domain: what is on its way is gone with the core's reset.
        for name, source, target in (
            ("commands", link, self.core),
            ("pixels", link, self.core),
            ("replies", self.core, link),
            ("results", self.core, link),
        ):
            register = StreamRegister(getattr(source, name).payload.shape())
            m.submodules[f"{name}_register"] = DomainRenamer("core")(register)
            connect(m, getattr(source, name), register.before)
            connect(m, register.behind, getattr(target, name))
        m.d.comb += [
            receiver.rx.eq(self.rx),
            link.lost.eq(receiver.lost),
            link.broken.eq(receiver.broken),
            self.tx.eq(transmitter.tx),
            self.session.eq(link.session),
            self.busy.eq(link.busy | ~transmitter.idle),
        ]
        return m
