"""The project's figures: exactness and cycles on recorded games, and decisions a second.

A game's trace is played once by the fast engine and kept; the same trace then goes through the
golden model and through every co-simulated core, frame by frame, so that every frame is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt

from . import __version__
from .agent import SHIPPED, Agent, find_agent
from .atari import Decision, record_trace
from .backend import Backend
from .backends import ModelBackend, golden_model, image_backend
from .compiler import compile_network
from .config import BuildConfig
from .cycles import CycleModel
from .dense import dense_onnx, dense_torch, observations
from .energy import frame_energy
from .engine import FloatEngine
from .golden import Golden
from .layout import LOST_CAUSES
from .link.pixels import encode_frame
from .network import Network
from .play import Comparison, Difference
from .quantise import DEFAULT_THRESHOLD, QuantisedNetwork
from .report import Setup, Statistics

__all__ = [
    "GAMES",
    "ROUNDS",
    "Result",
    "Trace",
    "bench_agent",
    "check_game",
    "load_trace",
    "measure_speeds",
    "run_bench",
    "summary",
]

GAMES = ("breakout", "space_invaders", "robotank", "enduro", "krull", "freeway")
# Two rounds of pruning: the ending of a shipped agent's name, and what plays games without one.
ROUNDS = {"20": ("", "random:0.2:0"), "10.7": ("-sparse10", "random:0.107:0")}

PREDICTED = 200  # frames of a game on which the cycle model is timed
TURN = 100  # frames that one contender runs before the next one's turn
WARM_UP = 20  # frames of each turn that are not timed: the one before left other data in the caches
MODELLED_HZ = 100_000_000  # the clock of an accelerator in the table of speeds

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Trace:
    """What an agent saw: consecutive frames (steps, height, width), and which start an episode."""

    frames: Frames
    starts: npt.NDArray[np.bool_]


def bench_agent(game: str, percent: str = "20") -> Agent:
    """The game's shipped agent with this share of its weights (a key of `ROUNDS`), or a random
    network pruned as much where there is none."""
    ending, otherwise = ROUNDS[percent]
    path = SHIPPED / f"{game}{ending}.npz"
    return find_agent(str(path) if path.exists() else otherwise, game)


def load_trace(
    game: str, network: QuantisedNetwork, *, steps: int, seed: int, folder: Path
) -> Trace:
    """The trace of these arguments: from `folder`, or played now and kept there.

    The network plays itself, with its own thresholds; the same arguments give the same trace.
    """
    facts = f"{game} {network.digest} {network.thresholds} {steps} {seed}"
    path = folder / f"{game}-{steps}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.npz"
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Trace(arrays["frames"], arrays["starts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or only half of it: it is made again
    trace = Trace(*record_trace(game, golden_model(network), steps, seed=seed))
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as new:
        np.savez_compressed(new, frames=trace.frames, starts=trace.starts)
    os.replace(part, path)
    return trace


@dataclass(frozen=True)
class Result:
    """One game on one build."""

    statistics: Statistics
    difference: str | None  # the first one from the golden model; None: exact on every frame
    mispredicted: int  # frames whose cycles the cycle model predicted wrongly
    waits: dict[str, float]  # lane-cycles lost, as parts of all, see `_waits`
    busiest: float | None  # multiplications of a frame's busiest lane, mean after the cold start
    frame_bytes: int  # of a whole frame
    sent_bytes: float  # as a frame travels over the link, without its packets: the mean

    def to_json(self) -> dict[str, Any]:
        """The keys of `reticent.report`, where cycles were lost, by the device's counters (`lost`)
        and split further by the cycle model (`waits`), and `bound`: the utilisation if every frame
        took as long as its busiest lane must multiply.

        `checked` is true when all was exact. A trace has neither scores nor a speed of its own:
        those keys are left out.
        """
        report = self.statistics.to_json()
        mean = report["cycles"]["mean"]
        del report["episodes"], report["decisions_per_second"]
        return {
            **report,
            "checked": self.difference is None,
            "difference": self.difference,
            "mispredicted": self.mispredicted,
            "lost": self.statistics.waits(),
            "waits": self.waits,
            "bound": (
                report["utilisation"] * mean / self.busiest if mean and self.busiest else None
            ),
            "frame_bytes": {"whole": self.frame_bytes, "sent": self.sent_bytes},
        }


def check_game(
    agent: Agent,
    network: QuantisedNetwork,
    trace: Trace,
    cores: Mapping[int, Backend],
    models: Mapping[int, CycleModel],
    *,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> dict[int, Result]:
    """Send a trace through all cores (by lanes) and the golden model; compare every frame.

    Outputs, events and multiplications of each layer must be equal at every step, all accumulators
    at the end; every frame's cycles are compared with what the core's cycle model predicts. A core
    that differs from the golden model is not run any further. `advance` is called after each frame.
    """
    golden = Golden(network)
    comparisons = {lanes: Comparison(golden, core) for lanes, core in cores.items()}
    statistics = {
        lanes: Statistics(
            Setup(
                game=agent.game,
                backend=core.name,
                agent=agent.label,
                lanes=lanes,
                threshold=DEFAULT_THRESHOLD,
                seed=seed,
                checked=True,
                layers=[(layer.name, layer.dense_multiplications) for layer in network.layers],
            )
        )
        for lanes, core in cores.items()
    }
    differences: dict[int, str] = {}
    mispredicted = dict.fromkeys(cores, 0)
    busiest: dict[int, list[int]] = {lanes: [] for lanes in cores}
    causes = len(LOST_CAUSES)
    waits = {lanes: np.zeros((len(network.layers), causes), np.int64) for lanes in cores}
    lane_cycles = dict.fromkeys(cores, 0)
    ends = np.append(trace.starts[1:], True)
    episode = -1
    for t, (frame, first, over) in enumerate(zip(trace.frames, trace.starts, ends, strict=True)):
        running = [lanes for lanes in cores if lanes not in differences]
        if first:
            episode += 1
            golden.reset()
            for lanes in running:
                cores[lanes].reset()
                models[lanes].reset()
        expected = golden.step(frame)
        for lanes in running:
            start = perf_counter()
            result = cores[lanes].step(frame)
            seconds = perf_counter() - start
            statistics[lanes].add(
                Decision(episode, bool(first), frame, result, 0.0, bool(over), 0, seconds)
            )
            mispredicted[lanes] += models[lanes].step(frame, golden.fired) != result.cycles
            if not first:
                busiest[lanes].append(models[lanes].busiest)
                waits[lanes] += models[lanes].waits
                if result.cycles is not None:
                    lane_cycles[lanes] += lanes * result.cycles.total
            try:
                comparisons[lanes].step(f"step {t}", expected, result)
                if t + 1 == len(trace.frames):
                    comparisons[lanes].accumulators(f"step {t}")
            except Difference as difference:
                differences[lanes] = str(difference)
        advance()
    rows = trace.frames.reshape(*trace.frames.shape[:2], -1)
    sent = [
        sum(map(len, encode_frame(frame, before)))
        for frame, before, first in zip(rows[1:], rows[:-1], trace.starts[1:], strict=True)
        if not first
    ]
    return {
        lanes: Result(
            statistics[lanes],
            differences.get(lanes),
            mispredicted[lanes],
            _waits(waits[lanes] / max(1, lane_cycles[lanes])),
            float(np.mean(busiest[lanes])) if busiest[lanes] else None,
            frame_bytes=trace.frames[0].size,
            sent_bytes=float(np.mean(sent)) if sent else 0.0,
        )
        for lanes in cores
    }


def _waits(parts: npt.NDArray[np.float64]) -> dict[str, float]:
    """Of (phases, causes): what the first phase lost (`input`), what the last one lost (`output
    layer`), and what the others did, by cause."""
    between = parts[1:-1].sum(axis=0).tolist()
    return {
        "input": float(parts[0].sum()),
        **dict(zip(LOST_CAUSES[:-1], between[:-1], strict=True)),
        "outputs": float(parts[1:][-1:].sum()),
    }


def measure_speeds(
    contenders: Mapping[str, Callable[[int], object]],
    reset: Callable[[], object],
    trace: Trace,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Decisions a second of contenders that decide on frame t of a trace: the median of turns.

    They take turns of some frames each, so that whatever else the machine does slows all of them,
    and it is the processor's time that counts: on a busy machine a slow one would wait more often.
    `reset` is called before the warm-up and at the start of each episode; only the time inside the
    contenders counts, and not the first `WARM_UP` frames of a turn.
    """
    steps = len(trace.frames)
    reset()
    for decide in contenders.values():
        for t in range(min(WARM_UP, steps)):
            decide(t)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}  # a decision, each turn
    begin = 0
    while begin < steps:
        later = np.flatnonzero(trace.starts[begin + 1 : begin + TURN])
        end = begin + 1 + int(later[0]) if len(later) else min(begin + TURN, steps)
        if begin == 0 or trace.starts[begin]:
            reset()
        warm = min(begin + WARM_UP, end - 1)
        for name, decide in contenders.items():
            for t in range(begin, warm):
                decide(t)
            start = process_time()
            for t in range(warm, end):
                decide(t)
            seconds[name].append((process_time() - start) / (end - warm))
            advance()
        begin = end
    return {name: 1 / float(np.median(spent)) for name, spent in seconds.items()}


def run_bench(
    games: Sequence[str],
    lanes: Sequence[int],
    *,
    steps: int,
    seed: int,
    percents: Sequence[str] = ("20",),
    show: Callable[[str, int], object] = lambda text, total: None,
) -> dict[str, Any]:
    """All figures as plain JSON types, of agents with these shares of their weights (`ROUNDS`).

    `results` has one entry for each share, game and build, see `Result.to_json`, with `percent`;
    `utilisation` has by share and build the geometric mean and the worst; of the first share,
    `energy` has `energy.frame_energy` of each build on the first game; `speeds` the decisions a
    second on the first game: `sim` with the first build, `golden`, `float`, `dense` by runtime
    where it is installed, and `modelled` at `MODELLED_HZ` for each build; `predicted` the frames a
    second of co-simulation and cycle model on each build. `seconds` of wall clock it took.
    `show(text, total)` is called before each of `total` pieces of work.

    What is found for a share, a game and a build is kept until all is found: a run that was
    interrupted goes on where it was, as long as no source has changed.
    """
    from reticent_sim.build import build_folder, library

    start = perf_counter()
    configs = {count: BuildConfig.for_lanes(count) for count in lanes}
    rounds = [(percent, game) for percent in percents for game in games]
    total = len(configs) + len(rounds) * (steps + 1) + 1
    for config in configs.values():
        show(f"building the core with {config.lanes} lanes (minutes, once)", total)
        library(config)
    results: list[dict[str, Any]] = []
    speeds: dict[str, Any] = {}
    predicted: dict[str, dict[str, float]] = {}
    energy: list[dict[str, Any]] = []
    parts: list[Path] = []
    sources = _sources()
    for percent, game in rounds:
        what = f"{game}, {percent} % of the weights"
        show(f"{what}: recording and compiling", total)
        agent = bench_agent(game, percent)
        network = agent.quantised()
        trace = load_trace(game, network, steps=steps, seed=seed, folder=build_folder() / "traces")
        facts = f"{sources} {game} {agent.label} {network.digest} {steps} {seed}"
        kept = {
            count: build_folder() / "bench" / f"{_digest(f'{facts} {config.hash}')}.json"
            for count, config in configs.items()
        }
        parts += kept.values()
        found = {count: _kept(path) for count, path in kept.items()}
        first = (percent, game) == rounds[0]
        with ExitStack() as stack:
            cores, models = {}, {}
            for count, config in configs.items():
                if found[count] and not first:
                    continue
                image = compile_network(network, config, list(agent.calibration))
                models[count] = CycleModel(image)
                cores[count] = image_backend("sim", image)
                stack.callback(cores[count].close)
            missing = {count: core for count, core in cores.items() if not found[count]}
            comparing = partial(show, f"{what}: comparing every frame", total)
            if missing:
                checked = check_game(
                    agent, network, trace, missing, models, seed=seed, advance=comparing
                )
                for count, result in checked.items():
                    found[count] = result.to_json() | {"percent": percent}
                    _keep(kept[count], found[count])
            else:
                for _ in range(steps):
                    comparing()
            results += [found[count] for count in configs]
            if first:
                energy = [
                    frame_energy(network, config, trace.frames, trace.starts)
                    for config in configs.values()
                ]
                show(f"{what}: timing", total)
                speeds = _speeds(agent.network, network, trace, cores[lanes[0]])
                predicted = _prediction_speeds(network, trace, cores, models)
    for path in parts:
        path.unlink(missing_ok=True)
    return {
        "version": __version__,
        "steps": steps,
        "seed": seed,
        "threshold": DEFAULT_THRESHOLD,
        "seconds": perf_counter() - start,
        "results": results,
        "utilisation": {
            percent: {
                str(count): summary((r for r in results if r["percent"] == percent), count)
                for count in lanes
            }
            for percent in percents
        },
        "energy": {"game": games[0], "builds": energy},
        "speeds": {
            "game": games[0],
            "percent": percents[0],
            "lanes": lanes[0],
            "decisions_per_second": speeds,
            "predicted": predicted,
            "modelled_hz": MODELLED_HZ,
            "modelled": {
                str(r["lanes"]): MODELLED_HZ / r["cycles"]["mean"]
                for r in results
                if (r["percent"], r["game"]) == rounds[0]
            },
        },
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources() -> str:
    """Changes with any source of the packages that the figures come from."""
    import reticent
    import reticent_hw
    import reticent_sim

    digest = hashlib.sha256()
    for package in (reticent, reticent_hw, reticent_sim):
        folder = Path(next(iter(package.__path__)))
        for path in sorted(p for ending in ("py", "cpp", "v") for p in folder.rglob(f"*.{ending}")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path) -> dict[str, Any]:
    """What an interrupted run has found, or nothing."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _keep(path: Path, found: Mapping[str, Any]) -> None:
    """Keep it for a run that goes on, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(found))
    os.replace(part, path)


def summary(results: Iterable[Mapping[str, Any]], lanes: int) -> dict[str, float | None]:
    """Geometric mean and worst of the games' utilisations on one build."""
    values = [r["utilisation"] for r in results if r["lanes"] == lanes and r["utilisation"]]
    if not values:
        return {"geometric_mean": None, "worst": None}
    return {"geometric_mean": float(np.exp(np.mean(np.log(values)))), "worst": min(values)}


def _speeds(
    network: Network, quantised: QuantisedNetwork, trace: Trace, core: Backend
) -> dict[str, Any]:
    """Every way of running one network; `dense` holds those of other runtimes by name."""
    backends: dict[str, Backend] = {
        "sim": core,
        "golden": golden_model(quantised),
        "float": ModelBackend("float", FloatEngine(network, DEFAULT_THRESHOLD)),
    }

    def reset() -> None:
        for backend in backends.values():
            backend.reset()

    def contender(backend: Backend) -> Callable[[int], int]:
        return lambda t: backend.step(trace.frames[t]).action

    ours = {name: contender(backend) for name, backend in backends.items()}
    pixels = observations(network, trace.frames, trace.starts)
    dense = dense_torch(network, pixels) | dense_onnx(network, pixels)
    speeds = measure_speeds(ours | dense, reset, trace)
    return {name: speeds[name] for name in ours} | {"dense": {name: speeds[name] for name in dense}}


def _prediction_speeds(
    network: QuantisedNetwork,
    trace: Trace,
    cores: Mapping[int, Backend],
    models: Mapping[int, CycleModel],
) -> dict[str, dict[str, float]]:
    """Frames a second of the co-simulated core (`sim`) and its cycle model (`model`), by lanes.

    The model is given the events; what finds them is the fast engine, timed by itself.
    """
    part = Trace(trace.frames[:PREDICTED], trace.starts[:PREDICTED])
    engine = golden_model(network).model
    events = []
    for frame, first in zip(part.frames, part.starts, strict=True):
        if first:
            engine.reset()
        engine.step(frame)
        events.append(engine.fired)
    found = {}
    for lanes, core in cores.items():
        model = models[lanes]

        def reset(core: Backend = core, model: CycleModel = model) -> None:
            core.reset()
            model.reset()

        contenders: dict[str, Callable[[int], object]] = {
            "sim": lambda t, core=core: core.step(part.frames[t]),  # type: ignore[misc]
            "model": lambda t, model=model: model.step(part.frames[t], events[t]),  # type: ignore[misc]
        }
        found[str(lanes)] = measure_speeds(contenders, reset, part)
    return found
