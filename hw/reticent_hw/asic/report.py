"""What is made of cells, paths, power and counts: area by block, and the energy of a frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .frames import Activity, Frame
from .macros import MacroLibrary
from .netlist import Netlist
from .opensta import Power
from .synthesis import Module, block_of

__all__ = [
    "MEMORY_BLOCKS",
    "area_report",
    "frame_energy",
    "frames_report",
    "instance_block",
    "memory_source",
    "total",
]

# Blocks whose macros hold what they are named for; other blocks' macros count as their own.
MEMORY_BLOCKS = ("weight memory", "accumulators", "pointers, channels")


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
    counts: Activity,
    power: Mapping[str, Power],
    netlist: Netlist,
    library: MacroLibrary,
    *,
    period_ns: float,
    pin_pj: Mapping[tuple[str, str], float],
) -> dict[str, dict[str, float]]:
    """Energy of the core in pJ, by block: `clock` (flip-flops and clock gates that tick, and their
    clock pins), `switching`, `leakage` of cells, and `memory`.

    `power` has the cells of the core by path below it; `pin_pj` is the energy of a tick at a clock
    pin, by cell and pin.
    """
    found: dict[str, dict[str, float]] = {}
    seconds = counts.cycles * period_ns * 1e-9

    def add(path: str, what: str, joules: float) -> None:
        line = found.setdefault(
            instance_block(path), {"clock": 0.0, "switching": 0.0, "leakage": 0.0, "memory": 0.0}
        )
        line[what] += joules * 1e12

    for path, instance in power.items():
        if path in netlist.macros:
            continue
        clock = netlist.clocks.get(path)
        ticks = counts.ticks[clock.gate] if clock and clock.gate else counts.cycles
        add(path, "clock", (instance.rest - instance.leakage) * ticks * period_ns * 1e-9)
        if clock:
            add(path, "clock", pin_pj[clock.cell, clock.pin] * ticks * 1e-12)
        add(path, "leakage", instance.leakage * seconds)
        add(path, "switching", instance.active * period_ns * 1e-9 * counts.changes.get(path, 0))
    for path, name in netlist.macros.items():
        macro = library.used[name]
        picojoules = counts.reads.get(path, 0) * macro.read_pj
        picojoules += counts.writes.get(path, 0) * macro.write_pj
        add(path, "memory", picojoules * 1e-12 + macro.leakage_uw * 1e-6 * seconds)
    return found


def frames_report(
    frames: Iterable[tuple[Frame, Mapping[str, Mapping[str, float]]]], period_ns: float
) -> list[dict[str, Any]]:
    """Means over the frames of each kind: the first one from a reset, and those of each threshold,
    in rising order. `frames` come with their `frame_energy`; energies here are in nJ."""
    kinds: dict[float, list[tuple[Frame, Mapping[str, Mapping[str, float]]]]] = {}
    for frame, blocks in frames:
        kinds.setdefault(-1 if frame.anew else frame.threshold, []).append((frame, blocks))
    found = []
    for kind, chosen in sorted(kinds.items()):
        count = len(chosen)

        def mean(lines: Iterable[Mapping[str, float]], count: int = count) -> dict[str, float]:
            return {key: value / count for key, value in total(lines).items()}

        activities = [frame.activity for frame, _ in chosen]
        by_block = {
            block: {k: v / 1e3 for k, v in mean(blocks[block] for _, blocks in chosen).items()}
            for block in chosen[0][1]
        }
        parts = total(by_block.values())
        energy = sum(parts.values())
        significant = sum(frame.significant for frame, _ in chosen) / count
        cycles = sum(activity.cycles for activity in activities) / count
        found.append(
            {
                "frames": "anew" if kind < 0 else "delta",
                "threshold": None if kind < 0 else kind,
                "count": count,
                "cycles": cycles,
                "significant": significant,
                "nj": energy,
                "parts_nj": parts,
                "blocks_nj": by_block,
                "pj_per_significant": 1e3 * energy / significant,
                "mw_back_to_back": energy / (cycles * period_ns) * 1e3,
                "reads": mean(activity.reads for activity in activities),
                "writes": mean(activity.writes for activity in activities),
                "ticks": mean(activity.ticks for activity in activities),
            }
        )
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
