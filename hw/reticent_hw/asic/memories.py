"""Amaranth's hook for memories: large ones become SRAM macros, small ones flip-flops.

A memory that is read in the same cycle (a lane's FIFO, the bitmaps of touched positions) cannot be
an SRAM and is flip-flops with a selector, whatever its size: so FIFOs are short on silicon
(`builds.silicon_build`).
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory

from reticent.errors import UserError
from reticent_hw.export import VerilogPlatform
from reticent_hw.memory import LOADED

from .macros import Arrangement, Macro, MacroLibrary, Request
from .pdk import PortPins

__all__ = ["AsicPlatform", "MacroMemory"]


class AsicPlatform(VerilogPlatform):
    """Exports Verilog whose large memories are macros of `library`.

    `refusal` is why the first memory that no macro serves has none; raise it when all is exported,
    for a design that is left half way is warned about.
    """

    def __init__(self, library: MacroLibrary) -> None:
        super().__init__()
        self._library = library
        self.refusal: UserError | None = None

    def get_memory(self, rows: memory.Memory) -> Elaboratable:
        """Amaranth's hook for memories."""
        if any(rows.init):
            raise ValueError("a memory of an ASIC holds nothing at power-up")
        request = Request(
            rows=rows.depth,
            bits=Shape.cast(rows.shape).width,
            reads=len(rows.read_ports),
            loaded=LOADED in rows.attrs,
        )
        asynchronous = any(port.domain == "comb" for port in rows.read_ports)
        if asynchronous or not self._library.wants_macro(request):
            return super().get_memory(rows)
        try:
            arrangement = self._library.arrange(request)
        except UserError as refusal:
            self.refusal = self.refusal or refusal
            return super().get_memory(rows)
        return MacroMemory(rows, arrangement, loaded=request.loaded)


class MacroMemory(Elaboratable):
    """A memory made of macros. It answers a cycle later, as the memory that it stands for.

    With `loaded`, the write goes through the first read port, which answers nothing of use in that
    cycle; otherwise it has a port of its own. Macros promise nothing for a row that is being
    written through their other port, and the core uses no such answer.

    A read costs energy, and most memories are asked for the same row again while nothing comes: so
    a row that is still shown is not read again.
    """

    def __init__(self, rows: memory.Memory, arrangement: Arrangement, *, loaded: bool):
        self._rows, self._arrangement, self._loaded = rows, arrangement, loaded

    def elaborate(self, platform):
        m = Module()
        rows, arrangement = self._rows, self._arrangement
        (write,) = rows.write_ports
        reads = rows.read_ports
        deep = arrangement.columns[0].rows
        bits = Shape.cast(rows.shape).width
        written = Value.cast(write.data)

        # What each port of the macros does, in order.
        jobs = [(None, read) for read in reads]
        if self._loaded:
            jobs[0] = (write, reads[0])
        else:
            jobs.insert(0, (write, None))

        answers, wanted = {}, {}
        for i, read in enumerate(reads):
            wanted[id(read)] = self._wanted(m, i, read, write)
            answers[id(read)] = found = Signal(arrangement.banks * bits, name=f"found_{i}")
            answer = found
            if arrangement.banks > 1:
                bank = Signal(range(arrangement.banks), name=f"bank_{i}")
                with m.If(read.en):
                    m.d.sync += bank.eq(read.addr // deep)
                answer = found.word_select(bank, bits)
            m.d.comb += Value.cast(read.data).eq(answer)
        for bank in range(arrangement.banks):
            low = 0
            for column, macro in enumerate(arrangement.columns):
                width = min(macro.bits, bits - low)
                pins = {}
                for pin in macro.pins:
                    if pin.output:
                        name = f"unused_{bank}_{column}_{pin.name}"
                        pins[f"o_{pin.name}"] = Signal(pin.width, name=name)
                    else:
                        pins[f"i_{pin.name}"] = C(0, pin.width)
                for port, (writer, reader) in zip(macro.ports, jobs, strict=False):
                    taken = self._port(macro, port, bank, writer, reader, wanted.get(id(reader)))
                    if writer is not None:
                        data = Cat(written[low : low + width], C(0, macro.bits - width))
                        taken[port.data_in] = data
                    pins |= {f"i_{name}": value for name, value in taken.items()}
                    if reader is not None:
                        out = Signal(macro.bits, name=f"answer_{bank}_{column}")
                        pins[f"o_{port.data_out}"] = out
                        start = bank * bits + low
                        m.d.comb += answers[id(reader)][start : start + width].eq(out)
                for port in macro.ports[len(jobs) :]:
                    idle = self._control(macro, port, C(0, 1), C(0, 1))
                    pins |= {f"i_{name}": value for name, value in idle.items()}
                m.submodules[f"macro_{bank}_{column}"] = Instance(macro.name, **pins)
                low += width
        return m

    def _wanted(self, m: Module, i: int, read, write) -> Signal:
        """Whether read port `i` has to read: it is asked for another row than its macros show."""
        wanted, shows = Signal(name=f"wanted_{i}"), Signal(name=f"shows_{i}")
        shown = Signal.like(read.addr, name=f"shown_{i}", reset_less=True)
        m.d.comb += wanted.eq(read.en & ~(shows & (read.addr == shown)))
        # A write of a loaded memory goes through its first port, which shows nothing of use then.
        changed = write.en
        if not self._loaded:
            changed &= write.addr == Mux(read.en, read.addr, shown)
        m.d.sync += shows.eq((shows | read.en) & ~changed)
        with m.If(read.en):
            m.d.sync += shown.eq(read.addr)
        return wanted

    def _port(
        self, macro: Macro, port: PortPins, bank: int, writer, reader, wanted
    ) -> dict[str, Value]:
        """Inputs of a port that serves a writer, a reader that reads when `wanted`, or both."""
        deep = self._arrangement.columns[0].rows
        single = self._arrangement.banks == 1
        width = next(pin.width for pin in macro.pins if pin.name == port.address)

        def here(address):
            return C(1, 1) if single else address // deep == bank

        def within(address):
            return Cat(address, C(0, width))[:width]

        writes = writer.en & here(writer.addr) if writer is not None else C(0, 1)
        reads = wanted & here(reader.addr) if reader is not None else C(0, 1)
        if writer is not None and reader is not None:
            reads = reads & ~writer.en
            address = Mux(writer.en, within(writer.addr), within(reader.addr))
        else:
            address = within((writer if writer is not None else reader).addr)
        return {port.address: address, **self._control(macro, port, writes, reads)}

    @staticmethod
    def _control(macro: Macro, port: PortPins, writes: Value, reads: Value) -> dict[str, Value]:
        """Inputs of a port but its address and data."""
        widths = {pin.name: pin.width for pin in macro.pins}
        pins: dict[str, Value] = {port.clock: ClockSignal()}
        pins |= {name: C(-1, widths[name]) for name in port.ones if name in widths}
        for name, value in (
            (port.select, writes | reads),
            (port.write, writes),
            (port.read, reads),
        ):
            if name:
                pins[name.lstrip("~")] = ~value if name.startswith("~") else value
        return pins
