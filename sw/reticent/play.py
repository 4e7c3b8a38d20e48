"""Whole episodes on a backend, watched: counted, checked, shown, recorded.

A watcher is told of every decision after it was taken; the backend still holds its state then.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .atari import AtariGame, Decision, rollout
from .backend import Backend, StepResult
from .errors import UserError
from .golden import Golden, Step
from .quantise import QuantisedNetwork
from .report import Statistics

__all__ = ["Checker", "Comparison", "Difference", "Progress", "Watcher", "play_episodes"]


class Watcher(Protocol):
    """Whoever wants to know of every decision."""

    def add(self, decision: Decision) -> None:
        """A decision was taken."""


def play_episodes(
    game: AtariGame,
    backend: Backend,
    watchers: Sequence[Watcher],
    *,
    seed: int,
    epsilon: float,
    episodes: int,
    max_decisions: int | None = None,
) -> None:
    """Play `episodes` whole episodes, or `max_decisions` decisions if that comes first."""
    for what, number in (("episodes", episodes), ("decisions", max_decisions)):
        if number is not None and number < 1:
            raise UserError(f"{number} {what} to play: give at least 1")
    for taken, decision in enumerate(rollout(game, backend, seed=seed, epsilon=epsilon), start=1):
        for watcher in watchers:
            watcher.add(decision)
        if taken == max_decisions or (decision.over and decision.episode + 1 == episodes):
            return


class Difference(Exception):
    """A backend and the golden model disagree."""


class Comparison:
    """Compares a backend with a golden model that takes the same steps.

    Compared are, at every step, events and multiplications of each layer and the outputs; and on
    demand all accumulators, if the backend has a method `accumulators() -> list of (out, h, w)`.
    With it, any difference names the first neuron too. `where` begins a difference's message.
    """

    def __init__(self, golden: Golden, backend: Backend) -> None:
        self._golden = golden
        self._names = [layer.name for layer in golden.network.layers]
        self._accumulators = getattr(backend, "accumulators", None)

    def step(self, where: str, expected: Step, result: StepResult) -> None:
        """Raise `Difference` unless both got the same from one step."""
        for i, name in enumerate(self._names):
            for what, wanted, got in (
                ("events", expected.events[i], result.events[i]),
                ("multiplications", expected.significant[i], result.significant[i]),
            ):
                self._same(f"{where}: layer {name}, {what}", wanted, got)
        for neuron, (wanted, got) in enumerate(zip(expected.outputs, result.outputs, strict=True)):
            self._same(f"{where}: layer {self._names[-1]}, neuron {neuron}", int(wanted), int(got))

    def accumulators(self, where: str) -> None:
        """Raise `Difference` unless the accumulators of all layers are the same."""
        found = self._first_neuron()
        if found:
            raise Difference(f"{where}: {found}")

    def _same(self, what: str, expected: int, got: int) -> None:
        if expected != got:
            neuron = self._first_neuron()
            raise Difference(
                f"{what}: expected {expected}, got {got}"
                + (f"; first accumulator: {neuron}" if neuron else "")
            )

    def _first_neuron(self) -> str | None:
        """The first accumulator that differs, if the backend can show its accumulators."""
        if self._accumulators is None:
            return None
        for name, expected, got in zip(
            self._names, self._golden.acc, self._accumulators(), strict=True
        ):
            for index in np.argwhere(expected != got):
                neuron = tuple(int(i) for i in index)
                return (
                    f"layer {name}, neuron {neuron} (channel, y, x): "
                    f"expected {expected[neuron]}, got {got[neuron]}"
                )
        return None


class Checker:
    """Runs the golden model beside a backend and raises `Difference` where they part.

    See `Comparison` for what is compared; accumulators at the end of every episode and in `finish`.
    """

    def __init__(self, network: QuantisedNetwork, backend: Backend) -> None:
        self.golden = Golden(network)
        self._comparison = Comparison(self.golden, backend)
        self._where = "before the first decision"

    def add(self, decision: Decision) -> None:
        """Compare one decision."""
        assert decision.result is not None
        # A board that lost its state begins anew, with no memory of the frames before.
        if decision.first or decision.result.fresh:
            self.golden.reset()
        if decision.first:
            self._step = 0
        self._step += 1
        self._where = f"episode {decision.episode + 1}, step {self._step}"
        self._comparison.step(self._where, self.golden.step(decision.frame), decision.result)
        if decision.over:
            self.finish()

    def finish(self) -> None:
        """Compare the accumulators of all layers."""
        self._comparison.accumulators(self._where)


class Progress:
    """One line that follows the play, and one that stays for each finished episode.

    Use it as a context. Where the output is no terminal, only the lines that stay are written.
    """

    INTERVAL = 0.1  # seconds between two updates of the line

    def __init__(self, console: Console, statistics: Statistics) -> None:
        self._statistics = statistics
        self._console = console
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._next = 0.0
        self._dense = sum(dense for _, dense in statistics.setup.layers)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def add(self, decision: Decision) -> None:
        """Show a decision; comes after the statistics among the watchers."""
        assert decision.result is not None
        episode = self._statistics.episodes[-1]
        start = f"episode {decision.episode + 1}  score {episode.score:g}"
        if decision.over:
            self._console.print(
                f"{start}  decisions {episode.decisions:,}  frames {episode.frames:,}",
                highlight=False,
            )
        elif self._live.is_started and monotonic() >= self._next:
            self._next = monotonic() + self.INTERVAL
            significant = sum(decision.result.significant)
            speed = self._statistics.decisions / self._statistics.seconds
            line = (
                f"{start}  decision {episode.decisions:,}  {speed:,.0f} decisions/s  "
                f"{significant:,} multiplications ({significant / self._dense:.2%} of dense)"
            )
            cycles = decision.result.cycles
            self._live.update(
                Text(line + (f"  {cycles.total:,} cycles" if cycles else "")), refresh=True
            )
