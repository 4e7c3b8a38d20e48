"""The whole design behind a board's pins: core, link, serial port."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from reticent.config import BuildConfig

from ..core import Core
from .link import PATIENCE, Link
from .register import StreamRegister
from .uart import UartReceiver, UartTransmitter

__all__ = ["System"]


class System(wiring.Component):
    """Core and link on a serial port; what a board adds is a clock, a reset and pins.

    Parameters
    ----------
    config, name, request_bytes, reply_bytes, patience : see `Link`
    clock : Hz of the `sync` domain
    baud : bit/s of the serial port

    Members
    -------
    rx, tx : serial data from and to the host
    session, busy : for lights; see `Link`
    """

    def __init__(
        self,
        config: BuildConfig,
        *,
        name: str,
        clock: int,
        baud: int,
        request_bytes: int = 1024,
        reply_bytes: int = 512,
        patience: int = PATIENCE,
    ):
        self._uart = clock, baud
        self.core = Core(config)
        self.link = Link(
            config,
            name=name,
            clock=clock,
            baud=baud,
            request_bytes=request_bytes,
            reply_bytes=reply_bytes,
            patience=patience,
        )
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "session": Out(1), "busy": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(*self._uart)
        m.submodules.transmitter = transmitter = UartTransmitter(*self._uart)
        m.submodules.link = link = self.link

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
