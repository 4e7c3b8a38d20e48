"""What is made of cells, paths, power and counts: area by block, and the energy of a frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .macros import MacroLibrary
from .opensta import Power
from .synthesis import Module, block_of

__all__ = [
    "MEMORY_BLOCKS",
    "ClockPin",
    "area_report",
    "frame_energy",
    "instance_block",
    "memory_source",
    "total",
]

# Blocks whose macros hold what they are named for; other blocks' macros count as their own.
MEMORY_BLOCKS = ("weight memory", "accumulators", "pointers, channels")


class Counts(Protocol):
    """What happened in a frame (`reticent_sim.gates.Activity`)."""

    cycles: int
    changes: Mapping[str, float]
    reads: Mapping[str, float]
    writes: Mapping[str, float]
    ticks: Mapping[str, float]


@dataclass(frozen=True)
class ClockPin:
    """The pin of a cell that the clock goes to: what cell and pin of the kit they are, and by path
    the clock gate before it, None where there is none."""

    cell: str
    pin: str
    gate: str | None


def area_report(modules: Mapping[str, Module], macros: MacroLibrary) -> dict[str, dict[str, Any]]:
    """By block: cells, flip-flops, area of both (um2), macros, their bits and area (None: not
    known)."""
    found: dict[str, dict[str, Any]] = {}
    for module in modules.values():
        block = block_of(module.name)
        if block is None or not module.copies:
            continue
        line = found.setdefault(
            block,
            {"cells": 0, "flops": 0, "cell_um2": 0.0, "macros": 0, "bits": 0, "macro_um2": 0.0},
        )
        line["cells"] += module.copies * module.cells
        line["flops"] += module.copies * module.flops
        line["cell_um2"] += module.copies * module.area
        for name, number in module.macros.items():
            macro, times = macros.used[name], module.copies * number
            line["macros"] += times
            line["bits"] += times * macro.rows * macro.bits
            if macro.area is None or line["macro_um2"] is None:
                line["macro_um2"] = None
            else:
                line["macro_um2"] += times * macro.area
    return found


def instance_block(path: str) -> str:
    """The block of a cell or macro by its path below the core ("lane_0/parts/requantiser/_12_")."""
    parts = re.sub(r"^lane_\d+/", "lane/", path).split("/")[:-1]
    while parts:
        scope = ".".join(parts)
        block = block_of(scope) if parts[0] == "lane" else block_of(f"core.{scope}")
        if block:
            return block
        parts.pop()
    return "wiring of the core"


def frame_energy(
    counts: Counts,
    power: Mapping[str, Power],
    clocks: Mapping[str, ClockPin],
    macros: Mapping[str, str],
    library: MacroLibrary,
    *,
    period_ns: float,
    pin_pj: Mapping[tuple[str, str], float],
) -> dict[str, dict[str, float]]:
    """Energy of the core in pJ, by block: `clock` (flip-flops and clock gates that tick, and their
    clock pins), `switching`, `leakage` of cells, and `memory`.

    `power` and `clocks` have the cells of the core by path below it, `macros` the kind of each
    macro; `pin_pj` is the energy of a tick at a clock pin, by cell and pin.
    """
    found: dict[str, dict[str, float]] = {}
    seconds = counts.cycles * period_ns * 1e-9

    def add(path: str, what: str, joules: float) -> None:
        line = found.setdefault(
            instance_block(path), {"clock": 0.0, "switching": 0.0, "leakage": 0.0, "memory": 0.0}
        )
        line[what] += joules * 1e12

    for path, instance in power.items():
        if path in macros:
            continue
        clock = clocks.get(path)
        ticks = counts.ticks[clock.gate] if clock and clock.gate else counts.cycles
        add(path, "clock", (instance.rest - instance.leakage) * ticks * period_ns * 1e-9)
        if clock:
            add(path, "clock", pin_pj[clock.cell, clock.pin] * ticks * 1e-12)
        add(path, "leakage", instance.leakage * seconds)
        add(path, "switching", instance.active * period_ns * 1e-9 * counts.changes.get(path, 0))
    for path, name in macros.items():
        macro = library.used[name]
        picojoules = counts.reads.get(path, 0) * macro.read_pj
        picojoules += counts.writes.get(path, 0) * macro.write_pj
        add(path, "memory", picojoules * 1e-12 + macro.leakage_uw * 1e-6 * seconds)
    return found


def memory_source(library: MacroLibrary) -> str:
    """Where the figures of memories come from."""
    if all(isinstance(macro.liberty, str) for macro in library.used.values()):
        return (
            "energy: Horowitz, ISSCC 2014 (45 nm, 0.9 V), times (process / 45 nm) x (V / 0.9 V)^2; "
            "access and setup times: assumed; area: not known"
        )
    return "the macros' own Liberty: area, energy of a read and of a write, leakage, timing"


def total(lines: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Sum of lines with the same keys."""
    found: dict[str, float] = {}
    for line in lines:
        for key, value in line.items():
            found[key] = found.get(key, 0.0) + value
    return found
