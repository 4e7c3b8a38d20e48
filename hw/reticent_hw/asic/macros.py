"""SRAM macros: what their Liberty says, a behavioural model of each, and which ones make a memory.

A macro's area, energy and timing come from its own Liberty. Where a kit has none, every memory is a
`generic` one: a black box of just its size, whose energy is a published one scaled to the process.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from liberty.parser import parse_liberty
from liberty.types import Group

from reticent.energy import memory_pj
from reticent.errors import ToolError, UserError

from .pdk import Pdk, PortPins

__all__ = ["Arrangement", "Macro", "MacroLibrary", "Pin", "Request"]

# Energies of `reticent.energy` are those of this process; switched capacitance follows the feature
# size, energy also the square of the voltage.
ENERGY_NM, ENERGY_VOLTS = 45.0, 0.9

MOST_BANKS = 32  # macros one behind the other; their outputs need a selector

GENERIC_PORTS = tuple(
    PortPins(
        clock=f"{p}_clk",
        select=f"{p}_en",
        write=f"{p}_write",
        address=f"{p}_addr",
        data_in=f"{p}_din",
        data_out=f"{p}_dout",
    )
    for p in "ab"
)


@dataclass(frozen=True)
class Pin:
    """A pin of a macro."""

    name: str
    width: int
    output: bool
    bus: bool  # declared as a bus, even if one bit wide


@dataclass(frozen=True, kw_only=True)
class Macro:
    """A memory block. Energies in pJ an access of a port, area in um2, leakage in uW.

    `area` is None where it is not known. `liberty` is its file, or its text for a generic one.
    """

    name: str
    rows: int
    bits: int
    ports: tuple[PortPins, ...]
    pins: tuple[Pin, ...]
    area: float | None
    read_pj: float
    write_pj: float
    leakage_uw: float
    liberty: Path | str

    def model(self) -> str:
        """Behavioural Verilog: synchronous reads, random contents and answers where nothing is
        promised: at power-up, after a write, and when the row is being written through the other
        port. Reads and writes of each port are cover points, which count them."""
        ports = ", ".join(self._declaration(pin) for pin in self.pins)
        noise = ", ".join(["$urandom"] * -(-self.bits // 32))
        lines = [
            f"module {self.name} ({ports});",
            f"reg [{self.bits - 1}:0] rows [0:{self.rows - 1}];",
        ]
        writes = [
            _level(p.select) + (f" & {_level(p.write)}" if p.write else " & 1'b0")
            for p in self.ports
        ]
        for i, port in enumerate(self.ports):
            others = [
                f"({writes[j]} & ({self.ports[j].address} == {port.address}))"
                for j in range(len(self.ports))
                if j != i
            ]
            clash = " | ".join(others) or "1'b0"
            reads = _level(port.select)
            if port.write:
                reads += f" & ~({writes[i]})"
            if port.read:
                reads += f" & {_level(port.read)}"
            lines += [
                f"reg [{self.bits - 1}:0] answer_{i};",
                f"assign {port.data_out} = answer_{i};",
                f"wire reads_{i} = {reads};",
                f"wire writes_{i} = {writes[i]};",
                f"always @(posedge {port.clock}) begin",
                f"  if (reads_{i}) answer_{i} <= ({clash}) ? {{{noise}}} : rows[{port.address}];",
            ]
            if port.write:
                lines += [
                    f"  if (writes_{i}) begin",
                    f"    rows[{port.address}] <= {port.data_in};",
                    f"    answer_{i} <= {{{noise}}};",
                    "  end",
                ]
            lines += [
                "end",
                f"count_reads_{i}: cover property (@(posedge {port.clock}) reads_{i});",
                f"count_writes_{i}: cover property (@(posedge {port.clock}) writes_{i});",
            ]
        return "\n".join([*lines, "endmodule", ""])

    def stub(self) -> str:
        """The empty module that synthesis sees."""
        ports = ", ".join(self._declaration(pin) for pin in self.pins)
        return f"(* blackbox *)\nmodule {self.name} ({ports});\nendmodule\n"

    @staticmethod
    def _declaration(pin: Pin) -> str:
        size = f"[{pin.width - 1}:0] " if pin.bus else ""
        return f"{'output' if pin.output else 'input'} {size}{pin.name}"


def _level(pin: str) -> str:
    return f"~{pin[1:]}" if pin.startswith("~") else pin


@dataclass(frozen=True)
class Request:
    """A memory that the gateware asks for.

    `loaded`: rows are written while nothing is read, so the write may use the first read port.
    """

    rows: int
    bits: int
    reads: int
    loaded: bool

    @property
    def ports(self) -> int:
        """Ports that a macro needs for it."""
        return self.reads if self.loaded else self.reads + 1

    def __str__(self) -> str:
        return f"{self.rows:,} rows of {self.bits} bits"


@dataclass(frozen=True)
class Arrangement:
    """A memory as `banks` macros one behind the other, and `columns` of them side by side."""

    banks: int
    columns: tuple[Macro, ...]

    @property
    def area(self) -> float | None:
        """In um2; None when it is not known."""
        areas = [macro.area for macro in self.columns]
        return None if None in areas else self.banks * sum(areas)  # type: ignore[arg-type]


class MacroLibrary:
    """What a kit offers, and what was chosen of it so far (`used`, by name)."""

    def __init__(self, pdk: Pdk):
        self._pdk = pdk
        self.used: dict[str, Macro] = {}
        self._arrangements: dict[Request, Arrangement] = {}

    @functools.cached_property
    def macros(self) -> tuple[Macro, ...]:
        """Every macro of the kit whose name says its size."""
        found = []
        for path in self._pdk.macro_libs:
            macro = _read_macro(path, self._pdk)
            if macro is not None:
                found.append(macro)
        return tuple(found)

    def wants_macro(self, request: Request) -> bool:
        """Whether a memory is large enough for a macro; others are flip-flops."""
        return request.rows * request.bits >= self._pdk.memories.from_bits

    def arrange(self, request: Request) -> Arrangement:
        """The arrangement of the smallest area; raises UserError when there is none."""
        if request not in self._arrangements:
            chosen = self._generic(request) if not self._pdk.memories.name else self._best(request)
            self._arrangements[request] = chosen
            self.used |= {macro.name: macro for macro in chosen.columns}
        return self._arrangements[request]

    def _best(self, request: Request) -> Arrangement:
        able = [
            macro
            for macro in self.macros
            if len(macro.ports) >= request.ports and macro.area is not None
        ]
        if not able:
            raise UserError(
                f"PDK {self._pdk.name} has no SRAM macro with {request.ports} ports, which "
                f"a memory of {request} needs"
            )
        possible = []
        for rows in {macro.rows for macro in able}:
            banks = -(-request.rows // rows)
            if banks <= MOST_BANKS:
                columns = _columns([m for m in able if m.rows == rows], request.bits)
                possible.append(Arrangement(banks, columns))
        if not possible:
            deepest = max(macro.rows for macro in able)
            raise UserError(
                f"PDK {self._pdk.name}: a memory of {request} takes more than {MOST_BANKS} macros "
                f"of {deepest:,} rows one behind the other: give more lanes, or set a lower depth"
            )
        return min(possible, key=lambda a: (a.area, a.banks))

    def _generic(self, request: Request) -> Arrangement:
        """A black box of just this size."""
        pdk = self._pdk
        ports = GENERIC_PORTS[: request.ports]
        width = (request.rows - 1).bit_length()
        pins = []
        for port in ports:
            pins += [
                Pin(port.clock, 1, False, False),
                Pin(port.select, 1, False, False),
                Pin(str(port.write), 1, False, False),
                Pin(port.address, width, False, True),
                Pin(str(port.data_in), request.bits, False, True),
                Pin(port.data_out, request.bits, True, True),
            ]
        name = f"reticent_sram_{len(ports)}rw_{request.rows}x{request.bits}"
        scale = pdk.process_nm / ENERGY_NM * (pdk.volts / ENERGY_VOLTS) ** 2
        energy = memory_pj(request.rows, request.bits) * scale
        macro = Macro(
            name=name,
            rows=request.rows,
            bits=request.bits,
            ports=ports,
            pins=tuple(pins),
            area=None,
            read_pj=energy,
            write_pj=energy,
            leakage_uw=0.0,
            liberty=_generic_liberty(
                name, ports, pins, pdk.memories.access_ns, pdk.memories.setup_ns
            ),
        )
        return Arrangement(1, (macro,))


def _columns(macros: list[Macro], bits: int) -> tuple[Macro, ...]:
    """Macros side by side that hold `bits`, of the least area; widest first."""
    best: list[tuple[float, tuple[Macro, ...]]] = [(0.0, ())]
    for width in range(1, bits + 1):
        best.append(
            min(
                (
                    (
                        best[max(0, width - m.bits)][0] + (m.area or 0.0),
                        (m, *best[max(0, width - m.bits)][1]),
                    )
                    for m in macros
                ),
                key=lambda choice: (choice[0], len(choice[1])),
            )
        )
    return tuple(sorted(best[bits][1], key=lambda m: -m.bits))


# What a Liberty file says.


def _read_macro(path: Path, pdk: Pdk) -> Macro | None:
    """The macro of a Liberty file; None when its name is not of the kit's pattern."""
    try:
        library = parse_liberty(path.read_text())
        cell = library.get_groups("cell")[0]
        name = str(cell.args[0])
        match = re.match(str(pdk.memories.name), name)
        if match is None:
            return None
        widths = {t.args[0]: int(t["bit_width"]) for t in library.get_groups("type")}
        pins = tuple(_pins(cell, widths))
        ports = pdk.memories.kinds[match["kind"]]
        return Macro(
            name=name,
            rows=int(match["rows"]),
            bits=int(match["bits"]),
            ports=ports,
            pins=pins,
            area=float(cell["area"]),
            read_pj=_energy(cell, ports[0], writes=False),
            write_pj=_energy(cell, ports[0], writes=True),
            leakage_uw=_leakage(library, cell),
            liberty=path,
        )
    except Exception as error:  # of a parser fed with anything
        raise ToolError(f"{path} cannot be understood: {error}") from error


def _pins(cell: Group, widths: Mapping[str, int]) -> list[Pin]:
    pins = []
    for group in cell.groups:
        if group.group_name in ("pin", "bus"):
            bus = group.group_name == "bus"
            pins.append(
                Pin(
                    str(group.args[0]),
                    widths[group["bus_type"]] if bus else 1,
                    str(group["direction"]) == "output",
                    bus,
                )
            )
    return pins


def _number(group: Group) -> float:
    """The mean of a table."""
    values = group.get_attribute("values")
    text = " ".join(
        str(getattr(v, "value", v)) for v in (values if isinstance(values, list) else [values])
    )
    numbers = [float(n) for n in re.findall(r"[-+0-9.eE]+", text)]
    return sum(numbers) / len(numbers)


def _energy(cell: Group, port: PortPins, *, writes: bool) -> float:
    """pJ of a clock's rise and fall when the port reads or writes: of the table whose condition
    holds."""
    levels = {port.select.lstrip("~"): not port.select.startswith("~")}
    for pin, active in ((port.write, writes), (port.read, not writes)):
        if pin:
            levels[pin.lstrip("~")] = active != pin.startswith("~")
    clock = cell.get_group("pin", port.clock)
    for table in clock.get_groups("internal_power"):
        condition = table.get_attribute("when")
        if condition is None or _holds(str(getattr(condition, "value", condition)), levels):
            edges = [g for g in table.groups if g.group_name in ("rise_power", "fall_power")]
            return sum(_number(edge) for edge in edges)
    raise ValueError(f"no energy of {port.clock} when it {'writes' if writes else 'reads'}")


def _holds(condition: str, levels: Mapping[str, bool]) -> bool:
    """A conjunction of pins and negated pins."""
    terms = re.findall(r"(!?)\s*([A-Za-z_]\w*)", condition)
    return all(levels.get(pin) == (not negated) for negated, pin in terms)


LEAKAGE_UNITS = {"nW": 1e-3, "uW": 1.0, "mW": 1e3, "pW": 1e-6}


def _leakage(library: Group, cell: Group) -> float:
    """In uW."""
    unit = str(getattr(library["leakage_power_unit"], "value", library["leakage_power_unit"]))
    match = re.fullmatch(r"(\d+)\s*(\w+)", unit.strip('"'))
    if match is None:
        raise ValueError(f"leakage_power_unit {unit}")
    leakage = cell.get_attribute("cell_leakage_power") or 0.0
    return float(leakage) * int(match[1]) * LEAKAGE_UNITS[match[2]]


EDGES = ("rise", "fall")


def _generic_liberty(
    name: str, ports: tuple[PortPins, ...], pins: list[Pin], access_ns: float, setup_ns: float
) -> str:
    """A Liberty file of a black box: constant access and setup times."""
    widths = sorted({pin.width for pin in pins if pin.bus})
    lines = [
        f"library ({name}) {{",
        '  delay_model : table_lookup; time_unit : "1ns"; voltage_unit : "1V";',
        '  current_unit : "1uA"; pulling_resistance_unit : "1kohm"; leakage_power_unit : "1nW";',
        "  capacitive_load_unit (1, pf);",
        *(f"  {kind}_threshold_pct_{edge} : 50;" for kind in ("input", "output") for edge in EDGES),
        *(f"  slew_lower_threshold_pct_{edge} : 20;" for edge in EDGES),
        *(f"  slew_upper_threshold_pct_{edge} : 80;" for edge in EDGES),
    ]
    lines += [
        f"  type (b{w}) {{ base_type : array; data_type : bit; bit_width : {w}; "
        f"bit_from : {w - 1}; bit_to : 0; downto : true; }}"
        for w in widths
    ]
    lines += [f"  cell ({name}) {{", "    area : 0; dont_touch : true; interface_timing : true;"]
    clock_of = {
        pin: port.clock
        for port in ports
        for pin in (port.select, port.write, port.address, port.data_in, port.data_out)
    }

    def edges(kinds: str, value: float) -> str:
        return " ".join(f'{kind} (scalar) {{ values ("{value}"); }}' for kind in kinds.split())

    for pin in pins:
        head = (
            f"bus ({pin.name}) {{ bus_type : b{pin.width};" if pin.bus else f"pin ({pin.name}) {{"
        )
        if pin.name not in clock_of:
            lines.append(f"    {head} direction : input; clock : true; capacitance : 0.01; }}")
        elif pin.output:
            delays = edges("cell_rise cell_fall", access_ns) + edges(
                "rise_transition fall_transition", 0.1
            )
            lines.append(
                f"    {head} direction : output; "
                f'timing () {{ related_pin : "{clock_of[pin.name]}"; '
                f"timing_type : rising_edge; timing_sense : non_unate; {delays} }} }}"
            )
        else:
            limits = " ".join(
                f'timing () {{ related_pin : "{clock_of[pin.name]}"; timing_type : {kind}_rising; '
                f"{edges('rise_constraint fall_constraint', value)} }}"
                for kind, value in (("setup", setup_ns), ("hold", 0.0))
            )
            lines.append(f"    {head} direction : input; capacitance : 0.01; {limits} }}")
    return "\n".join([*lines, "  }", "}", ""])
