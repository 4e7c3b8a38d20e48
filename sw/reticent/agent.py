"""Agents: a trained network with all that is needed to quantise it and to know what it is.

An agent file is one compressed `.npz` without pickles. Its members:

- `<layer>.weight`, `<layer>.bias`: float32, PyTorch's layouts; a pruned weight is 0.0;
- `calibration`: uint8 (N, height, width[, channels]), one unbroken stretch of play, in order;
- `meta`: one string, a JSON object with `format`, `version`, `game` (snake_case), `network` (the
  structure, see `Network.describe`), `scales` (real value of one activation count for each hidden
  layer), `actions` (names), `provenance` and `score` (text).

The same agent always gives the same bytes, so the file's SHA-256 names it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .atari import AtariGame, record_trace
from .config import BuildConfig
from .errors import UserError
from .network import Conv, Dense, Network, reference_network
from .quantise import (
    DEFAULT_THRESHOLD,
    QuantisedNetwork,
    Thresholds,
    activation_scales,
    quantise,
)

__all__ = ["Agent", "agent_bytes", "find_agent", "load_agent", "random_agent", "save_agent"]

FORMAT = "reticent-agent"
VERSION = 1
SHIPPED = Path(__file__).resolve().parents[2] / "agents"
LARGEST = 1 << 28  # bytes, unpacked: far more than any network that fits a device

RANDOM_DENSITY = 0.2  # as the shipped agents
RANDOM_CALIBRATION = 64  # frames


@dataclass(frozen=True, kw_only=True)
class Agent:
    """A network, the game it plays and the frames that calibrate its quantisation."""

    name: str  # what the user asked for, without folders: `breakout.npz`, `random:0.2:0`
    game: str  # snake_case
    network: Network
    actions: tuple[str, ...]  # names, in the order of the outputs
    scales: tuple[float, ...]  # real value of one activation count, of each hidden layer
    calibration: npt.NDArray[np.uint8] = field(repr=False)  # (N, height, width[, channels])
    provenance: str  # how it was trained
    score: str  # what it reaches, and how that was measured
    sha256: str | None = None  # of the file; None when it was not loaded from one

    def __post_init__(self) -> None:
        if len(self.actions) != self.network.outputs:
            raise UserError(
                f"{len(self.actions)} actions are named, the network has {self.network.outputs} "
                "outputs: name one for each"
            )
        hidden = len(self.network.linear) - 1
        if len(self.scales) != hidden or not all(0 < s < float("inf") for s in self.scales):
            raise UserError(
                f"activation scales are {list(self.scales)}: give {hidden} numbers above 0, one "
                "for each hidden layer"
            )
        frames = self.calibration
        if frames.ndim < 3 or len(frames) < 1:
            raise UserError(f"calibration has shape {frames.shape}: give frames (N, height, width)")
        self.network.input.check_frame(frames[0])

    def fits(self, config: BuildConfig) -> bool:
        """Whether the lanes of a build can store the weights that are not pruned."""
        layers = (layer for layer in self.network.layers if isinstance(layer, Conv | Dense))
        weights = sum(int(np.count_nonzero(layer.weight)) for layer in layers)
        return weights <= config.lanes * config.weight_depth

    @property
    def label(self) -> str:
        """Name and short hash: enough to tell two agents apart in a report."""
        return f"{self.name} ({self.sha256[:12]})" if self.sha256 else self.name

    def quantised(
        self,
        thresholds: Thresholds = DEFAULT_THRESHOLD,
        *,
        multiplier_bits: int = 16,
        accumulator_bits: int = 24,
    ) -> QuantisedNetwork:
        """The integer network; see `quantise.quantise` for the arguments and errors."""
        return quantise(
            self.network,
            self.scales,
            thresholds=thresholds,
            multiplier_bits=multiplier_bits,
            accumulator_bits=accumulator_bits,
        )


def agent_bytes(agent: Agent) -> bytes:
    """The content of an agent file. The same agent gives the same bytes."""
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "game": agent.game,
        "network": agent.network.describe(),
        "scales": list(agent.scales),
        "actions": list(agent.actions),
        "provenance": agent.provenance,
        "score": agent.score,
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "meta": np.array(json.dumps(meta)),
        **agent.network.arrays(),
        "calibration": agent.calibration,
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            # numpy.savez would write the time of day into the file.
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue())
    return packed.getvalue()


def save_agent(agent: Agent, path: Path | str) -> None:
    """Write an agent file."""
    Path(path).write_bytes(agent_bytes(agent))


def load_agent(path: Path | str) -> Agent:
    """Read an agent file. Raises `UserError` for anything that is not a whole, valid one."""
    path = Path(path)
    try:
        if path.is_file() and path.stat().st_size > LARGEST:
            raise UserError(f"agent file {path} has {path.stat().st_size} bytes: that is no agent")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"agent file {path} cannot be read ({error.strerror}): check the path given to --agent"
        ) from None
    try:
        return _parse(content, path.name)
    except UserError as error:
        raise UserError(f"agent file {path}: {error}") from None
    except (
        # What zipfile, zlib, numpy's header reader and json raise for damaged or foreign content.
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError),
        *(ValueError, TypeError, KeyError, AttributeError, SyntaxError, OverflowError),
        *(RecursionError, MemoryError),
    ) as error:
        raise UserError(
            f"agent file {path} is damaged or not an agent "
            f"({type(error).__name__}: {str(error)[:80] or 'no details'}): export it again"
        ) from None


def _parse(content: bytes, name: str) -> Agent:
    arrays = _unpack(content)
    meta = json.loads(arrays.pop("meta").item())
    if meta["format"] != FORMAT or meta["version"] != VERSION:
        raise UserError(
            f"format {meta['format']!r} version {meta['version']!r}: "
            f"this program reads {FORMAT!r} version {VERSION}"
        )
    texts = {key: meta[key] for key in ("game", "provenance", "score")}
    actions = tuple(meta["actions"])
    for text in (*texts.values(), *actions):
        if not isinstance(text, str):
            raise UserError(f"meta has {text!r} where text belongs: export it again")
    calibration = arrays.pop("calibration")
    return Agent(
        name=name,
        network=Network.from_arrays(meta["network"], arrays),
        actions=actions,
        scales=tuple(float(scale) for scale in meta["scales"]),
        calibration=calibration,
        sha256=hashlib.sha256(content).hexdigest(),
        **texts,
    )


def _unpack(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an npz, each checked before anything of its claimed size is allocated."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > LARGEST:
            raise UserError(f"it unpacks to {size} bytes: that is no agent")
        # Reading stops at the declared size, so the sum above bounds what is allocated.
        return {
            member.filename.removesuffix(".npy"): _array(member.filename, archive.read(member))
            for member in members
        }


def _array(name: str, data: bytes) -> npt.NDArray[Any]:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise UserError(f"{name} has an unknown array version: save it with numpy's version 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    expected = {"meta.npy": "U", "calibration.npy": "u1"}.get(name, "f4")
    if fortran or expected not in (dtype.kind, dtype.str[1:]):
        raise UserError(f"{name} has type {dtype}, expected {expected} in C order: export it again")
    return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape)


def random_agent(game: str, density: float = RANDOM_DENSITY, seed: int = 0) -> Agent:
    """The reference network with random, randomly pruned weights and the game's actions.

    It plays no better than chance; it has real frames, real sparsity and the right outputs, which
    is what exactness tests and measurements need where no trained agent exists. Calibrated on a
    short stretch of random play from the same seed.
    """
    if not 0 < density <= 1:
        raise UserError(f"density of a random agent is {density}: give above 0, up to 1")
    if seed < 0:
        raise UserError(f"seed of a random agent is {seed}: give 0 or more")
    emulator = AtariGame(game)
    actions = emulator.actions
    emulator.close()
    frames, _ = record_trace(game, None, RANDOM_CALIBRATION, seed=seed)
    network = reference_network(len(actions), seed=seed, density=density)
    return Agent(
        name=f"random:{density:g}:{seed}",
        game=emulator.name,
        network=network,
        actions=actions,
        scales=tuple(activation_scales(network, frames)),
        calibration=frames,
        provenance=f"random weights (He), seed {seed}, randomly pruned to {density:g}",
        score="chance",
    )


def find_agent(wanted: str | None, game: str, config: BuildConfig | None = None) -> Agent:
    """The agent that `--agent` names: a file, or `random[:density[:seed]]`.

    None is the game's shipped agent, `agents/<game>.npz`, or a sparser one of the game where the
    lanes of `config` cannot store its weights. `game` is in snake_case.
    """
    if wanted is None:
        path = SHIPPED / f"{game}.npz"
        if not path.exists():
            raise UserError(
                f"no agent for {game} is shipped ({path} does not exist): give --agent FILE, "
                "or --agent random for a pruned random network"
            )
        agent = load_agent(path)
        sparser = SHIPPED / f"{game}-sparse10.npz"
        if config and sparser.exists() and not agent.fits(config):
            agent = load_agent(sparser)
        return agent
    kind, *numbers = wanted.split(":")
    if kind != "random":
        return load_agent(wanted)
    try:
        density, seed = [*numbers, *[str(RANDOM_DENSITY), "0"][len(numbers) :]]
        return random_agent(game, float(density), int(seed))
    except ValueError:
        raise UserError(
            f"agent {wanted!r}: give random, random:DENSITY or random:DENSITY:SEED, "
            "for example random:0.2:0"
        ) from None
