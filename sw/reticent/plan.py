"""Choosing a build: every candidate's cycles by the cycle model and its cost by the memory table.

Candidates differ in lanes, streams, requantisers and FIFO depth; each takes the depths that the
network fills, rounded up to what its block memories hold anyway. The trace that judges them is
played by the agent itself. To be quick, candidates are balanced by a short stretch of the agent's
recorded frames; `finish` compiles the chosen one as `reticent compile` will, and counts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .agent import Agent
from .area import Area, banks, build_area, memories
from .atari import record_trace
from .backends import golden_model, quantised
from .boards import Board, Device
from .compiler import compile_network
from .config import BuildConfig
from .cycles import CycleModel
from .errors import UserError
from .image import Image
from .memory import memory_uses
from .quantise import QuantisedNetwork, Thresholds

__all__ = [
    "FIFOS",
    "LANES",
    "REQUANTISERS",
    "STREAMS",
    "Candidate",
    "Choice",
    "Explorer",
    "Shape",
    "choose",
    "fitted",
    "pareto",
    "shapes",
]

LANES = (2, 4, 8, 16, 32, 64)
STREAMS = (1, 2)
REQUANTISERS = (1, 2)
FIFOS = (16, 32, 64)

BALANCING = 32  # recorded frames by which a candidate is balanced; the chosen build gets all

# More of everything than any network needs: for compiling before the depths are known.
ROOMY = {
    "layers": 15,
    "stack": 8,
    "frame_depth": 1 << 16,
    "weight_depth": 1 << 18,
    "pointer_depth": 1 << 16,
    "state_depth_even": 1 << 16,
    "state_depth_odd": 1 << 16,
    "channel_depth": 1 << 12,
    "map_depth": 1 << 12,
    "map_rows": 256,
    "map_columns": 256,
}

# Choices that are limits more than memories.
LIMITS = ("layers", "map_rows", "map_columns")

Steps = Sequence[tuple[bool, npt.NDArray[np.uint8], Sequence[npt.NDArray[Any]]]]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One build and what it would do. Cycles are those of frames after the cold start."""

    config: BuildConfig
    area: Area
    cycles: float  # mean
    p99: int
    worst: int
    utilisation: float
    lacks: tuple[str, ...]  # what the board has too little of, in words; empty: it fits

    def to_json(self, clock_hz: float) -> dict[str, Any]:
        """Plain JSON types; decisions a second at this clock, transfer of the frame apart."""
        return {
            "lanes": self.config.lanes,
            "streams": self.config.streams,
            "requantisers": self.config.requantisers,
            "fifo_depth": self.config.fifo_depth,
            "cycles": {"mean": self.cycles, "p99": self.p99, "worst": self.worst},
            "decisions_per_second": clock_hz / self.cycles,
            "decisions_per_second_p99": clock_hz / self.p99,
            "utilisation": self.utilisation,
            "luts_estimated": self.area.luts,
            "multipliers_estimated": self.area.multipliers,
            "block_rams": self.area.blocks,
            "block_rams_by_purpose": dict(self.area.rams),
            "lacks": list(self.lacks),
            "config": self.config.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The candidate to build, and why."""

    candidate: Candidate
    reason: str


class Explorer:
    """Judges builds for an agent on a board by a game that the agent plays.

    `show(text)` is called before each piece of work.
    """

    def __init__(
        self,
        agent: Agent,
        board: Board,
        *,
        thresholds: Thresholds,
        steps: int,
        seed: int,
        show: Callable[[str], object] = lambda text: None,
    ) -> None:
        show(f"{agent.game}: playing {steps} steps")
        self._agent, self._board, self._show = agent, board, show
        self._network = quantised(agent, thresholds, BuildConfig())
        self._trace = _record(agent.game, self._network, steps, seed)

    def explore(self, shapes: Iterable[Shape], fifos: Sequence[int]) -> list[Candidate]:
        """A candidate for each shape with each FIFO depth, whether it fits or not."""
        found = []
        stretch = list(self._agent.calibration[:BALANCING])
        for shape in shapes:
            config = BuildConfig(**shape._asdict(), **ROOMY)
            name = _name(config)
            self._show(f"{name}: compiling")
            image = compile_network(self._network, config, stretch)
            for depth in fifos:
                self._show(f"{name}, FIFO {depth}: counting cycles")
                built = replace(image, config=config.replace(fifo_depth=depth))
                found.append(_candidate(built, self._trace, self._board))
        return found

    def finish(self, candidate: Candidate) -> Candidate:
        """A candidate compiled with all recorded frames, as it will be built."""
        config = candidate.config
        self._show(f"{_name(config)}: compiling it in full")
        roomy = config.replace(**ROOMY)
        image = compile_network(self._network, roomy, list(self._agent.calibration))
        return _candidate(image, self._trace, self._board)


class Shape(NamedTuple):
    """What candidates differ in, besides their FIFOs."""

    lanes: int
    streams: int
    requantisers: int


def shapes(
    lanes: Iterable[int], streams: Iterable[int], requantisers: Iterable[int]
) -> list[Shape]:
    """All shapes whose streams divide the lanes, fewest lanes first."""
    every = product(*(sorted(set(numbers)) for numbers in (lanes, streams, requantisers)))
    found = [Shape(*one) for one in every if one[1] > 0 and one[0] % one[1] == 0]
    if not found:
        raise UserError("no candidate: give numbers of streams that divide numbers of lanes")
    return found


def _name(config: BuildConfig) -> str:
    """A build's shape in words."""
    words = [f"{config.lanes} lanes"]
    words += [f"{config.streams} streams"] * (config.streams > 1)
    words += [f"{config.requantisers} requantisers"] * (config.requantisers > 1)
    return ", ".join(words)


def _record(game: str, network: QuantisedNetwork, steps: int, seed: int) -> Steps:
    """Frames of the network playing, each with whether it begins an episode and all events."""
    frames, starts = record_trace(game, golden_model(network), steps, seed=seed)
    model = golden_model(network).model
    found = []
    for frame, first in zip(frames, starts, strict=True):
        if first:
            model.reset()
        model.step(frame)
        found.append((bool(first), frame, model.fired))
    return found


def _candidate(image: Image, trace: Steps, board: Board) -> Candidate:
    """An image's cycles on a trace, and the smallest build that holds it."""
    model = CycleModel(image)
    totals, busy = [], 0
    for first, frame, fired in trace:
        if first:
            model.reset()
        cycles = model.step(frame, fired)
        if not first:
            totals.append(cycles.total)
            busy += cycles.busy
    config = fitted(image, board.device)
    area = build_area(config, board.device)
    return Candidate(
        config=config,
        area=area,
        cycles=float(np.mean(totals)),
        p99=int(np.percentile(totals, 99, method="higher")),
        worst=max(totals),
        utilisation=busy / (config.lanes * sum(totals)),
        lacks=_lacks(area, board.device),
    )


def fitted(image: Image, device: Device) -> BuildConfig:
    """The smallest build that holds an image: depths as used, up to what the memory holds anyway.

    Choices without a memory of their own keep their defaults where these suffice.
    """
    default = BuildConfig()
    depths: dict[str, int] = {}
    for use in memory_uses(image.config, image.used):
        if use.used is not None:
            floor = getattr(default, use.choice) if use.choice in LIMITS else 2
            depths[use.choice] = max(floor, use.used, depths.get(use.choice, 0))
    config = image.config.replace(**depths)
    blocks = build_area(config, device).blocks
    for use in memory_uses(config, image.used):
        if use.used is None or use.choice in LIMITS or use.choice == "stack":
            continue
        parts = banks(config, use.choice)
        bits = use.row_bits // memories(config, use.choice)
        depth = parts * _filled(-(-use.built // parts), bits, device)
        deeper = config.replace(**{use.choice: max(depth, getattr(config, use.choice))})
        # More rows may need longer addresses, and these wider rows elsewhere.
        if build_area(deeper, device).blocks == blocks:
            config = deeper
    return config


def _filled(rows: int, bits: int, device: Device) -> int:
    """Rows that take no more block memory than `rows`; a power of two where it is LUT memory."""
    blocks = device.ram.count(rows, bits)
    if device.lut_ram.is_better(rows, bits, blocks):
        return 1 << (rows - 1).bit_length()
    shapes = device.ram.shapes
    return max(
        -(-rows // depth) * depth
        for depth, width in shapes
        if -(-rows // depth) * -(-bits // width) == blocks
    )


def _lacks(area: Area, device: Device) -> tuple[str, ...]:
    """What the device has too little of."""
    needs = (
        ("block RAMs", area.blocks, device.rams),
        ("multipliers", area.multipliers, device.multipliers),
        ("LUTs", area.luts, device.luts),
    )
    return tuple(f"{need:,} of {there:,} {what}" for what, need, there in needs if need > there)


def pareto(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other one beats in cycles, LUTs, block RAMs and multipliers at once.

    Of candidates that are equal in all of them, the first stays.
    """

    def costs(candidate: Candidate) -> tuple[float, ...]:
        area = candidate.area
        return candidate.cycles, area.luts, area.blocks, area.multipliers

    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=costs):
        mine = costs(candidate)
        if not any(all(a <= b for a, b in zip(costs(k), mine, strict=True)) for k in kept):
            kept.append(candidate)
    return kept


def choose(
    candidates: Sequence[Candidate],
    board: Board,
    clock_hz: float,
    *,
    target_fps: float | None = None,
    max_luts: int | None = None,
) -> Choice:
    """The candidate to build; raises `UserError` with what is missing where none will do.

    With `target_fps` the smallest one that decides 99 of 100 frames in time; otherwise the fastest
    that fits, within `max_luts` if given.
    """
    fitting = [c for c in candidates if not c.lacks]
    if not fitting:
        nearest = min(candidates, key=lambda c: len(c.lacks) * 1e9 + c.area.blocks)
        raise UserError(
            f"no build fits {board.name}: the nearest, with {nearest.config.lanes} lanes, needs "
            f"{' and '.join(nearest.lacks)}: prune the network further, or name a larger board"
        )
    if max_luts is not None:
        small = [c for c in fitting if c.area.luts <= max_luts]
        if not small:
            least = min(c.area.luts for c in fitting)
            raise UserError(
                f"--max-lut {max_luts}: the smallest build takes about {least:,} LUTs: allow those"
            )
        fitting = small
    if target_fps is not None:
        quick = [c for c in fitting if clock_hz / c.p99 >= target_fps]
        if not quick:
            best = min(fitting, key=lambda c: c.p99)
            raise UserError(
                f"--target-fps {target_fps:g}: the fastest build that fits {board.name} decides "
                f"{clock_hz / best.p99:,.0f} times a second at {clock_hz / 1e6:g} MHz: ask for "
                "less, or prune the network further"
            )
        chosen = min(quick, key=lambda c: (c.area.luts, c.area.blocks, c.cycles))
        reason = (
            f"the fewest LUTs of the {len(quick)} builds that fit {board.name} and decide 99 of "
            f"100 frames at {target_fps:g} a second or faster"
        )
    else:
        chosen = min(fitting, key=lambda c: (c.cycles, c.area.luts, c.area.blocks))
        limit = f" with at most {max_luts:,} LUTs" if max_luts is not None else ""
        reason = f"the fastest of the {len(fitting)} builds that fit {board.name}{limit}"
    return Choice(candidate=chosen, reason=reason)
