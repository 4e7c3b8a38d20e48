"""Everything that can go wrong on a link, on purpose: nothing wrong may come of it."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.errors import ToolError
from reticent.golden import Golden
from reticent.link.client import ChannelLost, Client
from reticent.link.transport import BoardAccelerator, LinkTransport
from reticent.random_networks import Limits, random_frames, random_network

from .board import SimBoard
from .channel import SimChannel

__all__ = ["KINDS", "FaultyChannel", "Outcome", "main", "torture"]

KINDS = ("flip", "drop", "double", "reorder", "delay", "truncate", "noise", "unplug", "reset")

# A small machine: what is tested is the link.
CONFIG = BuildConfig(
    lanes=2,
    fifo_depth=10,
    queue_depth=64,
    stack=3,
    frame_depth=256,
    layers=4,
    weight_depth=512,
    pointer_depth=512,
    state_depth_even=256,
    state_depth_odd=256,
    channel_depth=32,
    map_depth=64,
    map_rows=12,
    map_columns=12,
    relative_bits=8,
)
LIMITS = Limits(input_size=9, layers=3, channels=6, weights=200)
PATIENCE = 20  # 2**20 cycles are far more than a frame of so small a network takes
EPISODE = 25  # frames


class FaultyChannel:
    """A channel to a simulated board with a fault in every few transfers.

    `rate` is the chance of a fault in one transfer; `faults` counts them by kind.
    """

    def __init__(self, board: SimBoard, rng: np.random.Generator, rate: float) -> None:
        self._inner = SimChannel(board)
        self._rng = rng
        self.rate = rate
        self.name = self._inner.name
        self.seconds_a_byte = self._inner.seconds_a_byte
        self.faults: Counter[str] = Counter()
        self._late_sent, self._late_received = bytearray(), bytearray()
        self._gone = 0  # attempts until the port is back

    def _fault(self) -> str | None:
        if self._rng.random() >= self.rate:
            return None
        kind = str(self._rng.choice(KINDS))
        self.faults[kind] += 1
        return kind

    def _harm(self, kind: str | None, data: bytes, late: bytearray) -> bytes:
        """The bytes after a fault; those that come later are left in `late`."""
        rng = self._rng
        harmed = bytearray(data)
        at = int(rng.integers(max(1, len(harmed))))
        some = int(rng.integers(1, 9))
        match kind:
            case "flip" if harmed:
                harmed[at] ^= 1 << int(rng.integers(8))
            case "drop":
                del harmed[at : at + some]
            case "double":
                harmed[at:at] = harmed[at : at + some]
            case "reorder":
                part = harmed[at : at + some + 1]
                harmed[at : at + some + 1] = bytes(rng.permutation(list(part)).astype("u1"))
            case "delay":
                late += harmed[at:]
                del harmed[at:]
            case "truncate":
                del harmed[at:]
            case "noise":
                harmed[at:at] = rng.integers(0, 256, some).astype("u1").tobytes()
        return bytes(harmed)

    def _check(self) -> None:
        if self._gone:
            raise ChannelLost("unplugged")

    def send(self, data: bytes) -> None:
        """Send, perhaps something else."""
        self._check()
        kind = self._fault()
        # A whole packet may be held back, and come after a newer one.
        early = bytes(self._late_sent)
        self._late_sent.clear()
        harmed = self._harm(kind, data, self._late_sent)
        self._inner.send(early + harmed if self._rng.random() < 0.5 else harmed + early)
        if kind in ("reset", "unplug"):
            # In the middle of it: the board has seen a part, and perhaps begun to answer.
            part = int(self._rng.integers(1, 40 * len(data) + 4000))
            self._late_received += self._inner.board.run(part)
        if kind == "reset":
            self._inner.board.reset()
        if kind == "unplug":
            self._gone = int(self._rng.integers(1, 3))
            self._late_received.clear()
            self._inner.discard()
            raise ChannelLost("unplugged")

    def receive(self, timeout: float) -> bytes:
        """Receive, perhaps something else."""
        self._check()
        data = self._inner.receive(timeout)
        if not data and not self._late_received:
            return b""
        early = bytes(self._late_received)
        self._late_received.clear()
        kind = self._fault()
        if kind == "reset":
            self._inner.board.reset()
        if kind == "unplug":
            self._gone = int(self._rng.integers(1, 3))
            raise ChannelLost("unplugged")
        return early + self._harm(kind, data, self._late_received)

    def discard(self) -> None:
        """Forget what arrived."""
        self._inner.discard()
        if self._rng.random() < 0.5:
            self._late_received.clear()

    def reopen(self) -> None:
        """Succeeds at the second or third attempt."""
        self._gone = max(0, self._gone - 1)
        self._check()

    def time(self) -> float:
        """The board's."""
        return self._inner.time()

    def close(self) -> None:
        """Free the board."""
        self._inner.close()


@dataclass
class Outcome:
    """What became of the frames, and of the faults."""

    right: int = 0  # answers that equal the golden model's
    anew: int = 0  # those of them that began a new episode, and said so
    reported: Counter[str] = field(default_factory=Counter)  # errors by their first words
    wrong: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """For people."""
        lines = [f"{sum(self.faults.values()):,} faults:"]
        lines += [f"  {kind:10}{count:8,}" for kind, count in sorted(self.faults.items())]
        frames = self.right + sum(self.reported.values()) + len(self.wrong)
        lines += [
            f"{frames:,} frames sent:",
            f"  {self.right:8,} answered right, {self.anew:,} of them by a board begun anew",
            f"  {sum(self.reported.values()):8,} reported as errors",
            *(f"  {count:16,} {what}" for what, count in self.reported.most_common()),
            f"  {len(self.wrong):8,} answered wrong",
        ]
        return "\n".join(lines + self.wrong[:5])


def torture(
    faults: int, *, seed: int = 0, rate: float = 0.25, progress: Progress | None = None
) -> Outcome:
    """Play frames on a simulated board until so many faults were injected."""
    rng = np.random.default_rng(seed)
    network = random_network(0, LIMITS)
    image = compile_network(network, CONFIG)
    golden = Golden(network)
    outcome = Outcome()
    board = SimBoard(CONFIG, name="tortured", patience=PATIENCE)
    channel = FaultyChannel(board, rng, rate=0.0)
    client = Client(channel, number=lambda: int(rng.integers(1 << 32)), sleep=lambda _: None)
    device = BoardAccelerator("fpga", LinkTransport(client), image)
    channel.rate = rate
    task = progress.add_task("faults", total=faults) if progress else None
    known = True  # the golden model is where the board should be
    step = 0
    while sum(channel.faults.values()) < faults:
        if step % EPISODE == 0:
            scene = iter(random_frames(network, int(rng.integers(1 << 30)), EPISODE))
            try:
                device.reset()
                golden.reset()
                known = True
            except ToolError as error:
                outcome.reported[_kind(error)] += 1
                known = False
        frame = next(scene)
        step += 1
        try:
            got = device.step(frame)
        except ToolError as error:
            outcome.reported[_kind(error)] += 1
            known = False
            continue
        finally:
            if progress and task is not None:
                progress.update(task, completed=sum(channel.faults.values()))
        if got.fresh:
            outcome.anew += 1
            golden.reset()
            known = True
        expected = golden.step(frame)
        same = (
            known
            and got.outputs.tolist() == list(expected.outputs)
            and list(got.events) == list(expected.events)
            and list(got.significant) == list(expected.significant)
        )
        if same:
            outcome.right += 1
        else:
            outcome.wrong.append(
                f"seed {seed}, step {step}: {got.outputs.tolist()} for "
                f"{list(expected.outputs)}{'' if known else ', after an error'}"
            )
            known = False
            device.reset()
    outcome.faults = channel.faults
    channel.close()
    return outcome


def _kind(error: ToolError) -> str:
    """An error without its particulars."""
    return str(error).partition(": ")[2][:40] or str(error)[:40]


def main(arguments: Sequence[str]) -> int:
    """Print what became of it; 1 when anything was answered wrong."""
    parser = argparse.ArgumentParser(
        prog="faults.py",
        description="Play on a simulated board over a link on which everything goes wrong. Every "
        "answer must equal the golden model's or be reported as an error.",
    )
    parser.add_argument("--faults", type=int, default=10_000, metavar="N", help="(10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(0)")
    chosen = parser.parse_args(arguments)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"))
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        outcome = torture(chosen.faults, seed=chosen.seed, progress=bar)
    console.print(outcome.text(), highlight=False)
    return 1 if outcome.wrong else 0
