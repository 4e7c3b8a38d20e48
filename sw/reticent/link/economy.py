"""What a game costs on the link: bytes, time, decisions a second. Counted, not estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..bench import ROUNDS, bench_agent, load_trace
from ..boards import Board
from ..compiler import compile_network
from ..cycles import CycleModel
from ..engine import Engine
from ..errors import UserError
from ..layout import ResultLayout
from ..presets import BoardPreset
from .pixels import encode_frame, split_frame
from .protocol import FINAL, REPLY_EXTRA, REQUEST_EXTRA, Request, encode_request

__all__ = ["BITS_A_BYTE", "Economy", "measure"]

BITS_A_BYTE = 10  # on a serial line: start, eight data, stop
DEEPER = {"weight_depth": 8192, "channel_depth": 128}  # of a lane, in rows
COBS_BLOCK = 254  # bytes that one more byte announces


@dataclass(frozen=True, kw_only=True)
class Economy:
    """Means of a game's decisions after the first one of each episode."""

    game: str
    raw: int  # bytes of a frame
    sent: float  # bytes to the board, framing and all
    received: float
    cycles: float  # of the core
    clock: int  # Hz
    fits: bool  # the board's build has room for the agent

    def link_seconds(self, baud: int) -> float:
        """On the wire, both directions one after the other."""
        return (self.sent + self.received) * BITS_A_BYTE / baud

    @property
    def compute_seconds(self) -> float:
        """From the last pixel to the answer."""
        return self.cycles / self.clock

    def decisions(self, baud: int) -> float:
        """Decisions a second, without what an adapter or a computer adds."""
        return 1 / (self.link_seconds(baud) + self.compute_seconds)


def measure(
    game: str, board: Board, preset: BoardPreset, *, steps: int, seed: int, folder: Path
) -> Economy:
    """Play a recorded game through the frame code and the cycle model, byte by byte.

    An agent that does not fit the board's build is measured with deeper memories in the same
    lanes, which take as many cycles.
    """
    config = preset.config
    agents = [bench_agent(game, percent) for percent in ROUNDS]
    agent = next((agent for agent in agents if agent.fits(config)), agents[-1])
    network = agent.quantised(
        multiplier_bits=config.multiplier_bits, accumulator_bits=config.accumulator_bits
    )
    trace = load_trace(game, network, steps=steps, seed=seed, folder=folder)
    frames = list(agent.calibration)
    try:
        image, fits = compile_network(network, config, frames), True
    except UserError:
        deeper = {name: max(getattr(config, name), rows) for name, rows in DEEPER.items()}
        image, fits = compile_network(network, config.replace(**deeper), frames), False
    engine, model = Engine(network), CycleModel(image)
    room = preset.request_bytes - REQUEST_EXTRA - 1
    result = reply_bytes(4 * ResultLayout(image.outputs, len(image.layers)).words)
    sent: list[int] = []
    received: list[int] = []
    cycles: list[int] = []
    before = None
    for frame, starts in zip(trace.frames, trace.starts.tolist(), strict=True):
        if starts:
            engine.reset()
            model.reset()
            before = None
        pixels = np.asarray(frame).reshape(len(frame), -1)
        parts = split_frame(encode_frame(pixels, before), room)
        engine.step(frame)
        spent = model.step(frame, engine.fired).total
        if before is not None:
            sent.append(request_bytes(parts))
            received.append(result + (len(parts) - 1) * reply_bytes(0))
            cycles.append(spent)
        before = pixels
    return Economy(
        game=game,
        raw=network.input.pixels,
        sent=float(np.mean(sent)),
        received=float(np.mean(received)),
        cycles=float(np.mean(cycles)),
        clock=board.clock_hz,
        fits=fits,
    )


def request_bytes(parts: Sequence[bytes]) -> int:
    """Bytes on the wire of a frame that goes in these parts."""
    flags = bytes([FINAL])
    # The sequence number may make a byte more or less: here it holds no zero.
    return sum(len(encode_request(Request.FRAME, 0x01010101, flags + part)) for part in parts)


def reply_bytes(payload: int) -> int:
    """Bytes on the wire of a reply, at most: COBS, delimiter and all."""
    size = payload + REPLY_EXTRA
    return size + -(-size // COBS_BLOCK) + 1
