"""The project's figures: exactness and cycles on recorded games, and decisions a second.

A game's trace is played once by the fast engine and kept; the same trace then goes through the
golden model and through every co-simulated core, frame by frame, so that every frame is compared.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from . import __version__
from .agent import SHIPPED, Agent, find_agent
from .arithmetic import PIXEL_MAX
from .atari import Decision, record_trace
from .backend import Backend
from .backends import ModelBackend, golden_model, image_backend
from .compiler import compile_network
from .config import BuildConfig
from .cycles import CycleModel
from .engine import FloatEngine
from .floatnet import frame_history
from .golden import Golden
from .network import AvgPool, Conv, Dense, Network
from .play import Comparison, Difference
from .quantise import DEFAULT_THRESHOLD, QuantisedNetwork
from .report import Setup, Statistics

__all__ = [
    "GAMES",
    "Result",
    "Trace",
    "bench_agent",
    "check_game",
    "dense_torch",
    "load_trace",
    "measure_speeds",
    "run_bench",
    "summary",
]

GAMES = ("breakout", "space_invaders", "robotank", "enduro", "krull", "freeway")
RANDOM_AGENT = "random:0.2:0"  # for games without a shipped agent

TURN = 50  # frames that one contender runs before the next one's turn
WARM_UP = 20  # frames

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Trace:
    """What an agent saw: consecutive frames (steps, height, width), and which start an episode."""

    frames: Frames
    starts: npt.NDArray[np.bool_]


def bench_agent(game: str) -> Agent:
    """The game's shipped agent, or a pruned random network where there is none."""
    shipped = (SHIPPED / f"{game}.npz").exists()
    return find_agent(None if shipped else RANDOM_AGENT, game)


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

    def to_json(self) -> dict[str, Any]:
        """The keys of `reticent.report`, each layer's utilisation, and where cycles were lost.

        A layer's utilisation is that of its own cycles. `checked` is true when all was exact. A
        trace has neither scores nor a speed of its own: those keys are left out.
        """
        report = self.statistics.to_json()
        del report["episodes"], report["decisions_per_second"]
        for layer in report["layers"]:
            layer["utilisation"] = (
                layer["significant"] / (report["lanes"] * layer["cycles"])
                if layer["cycles"]
                else None
            )
        return {
            **report,
            "checked": self.difference is None,
            "difference": self.difference,
            "mispredicted": self.mispredicted,
            "lost": self.statistics.waits(),
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
            mispredicted[lanes] += models[lanes].step(frame, golden.delta) != result.cycles
            try:
                comparisons[lanes].step(f"step {t}", expected, result)
                if t + 1 == len(trace.frames):
                    comparisons[lanes].accumulators(f"step {t}")
            except Difference as difference:
                differences[lanes] = str(difference)
        advance()
    return {
        lanes: Result(statistics[lanes], differences.get(lanes), mispredicted[lanes])
        for lanes in cores
    }


def measure_speeds(
    contenders: Mapping[str, Callable[[int], object]],
    reset: Callable[[], object],
    trace: Trace,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Decisions a second of contenders that decide on frame t of a trace.

    They take turns of some frames each, so that whatever else the machine does slows all of them.
    `reset` is called before the warm-up and at the start of each episode; only the time inside the
    contenders counts.
    """
    steps = len(trace.frames)
    reset()
    for decide in contenders.values():
        for t in range(min(WARM_UP, steps)):
            decide(t)
    seconds = dict.fromkeys(contenders, 0.0)
    begin = 0
    while begin < steps:
        later = np.flatnonzero(trace.starts[begin + 1 : begin + TURN])
        end = begin + 1 + int(later[0]) if len(later) else min(begin + TURN, steps)
        if begin == 0 or trace.starts[begin]:
            reset()
        for name, decide in contenders.items():
            start = perf_counter()
            for t in range(begin, end):
                decide(t)
            seconds[name] += perf_counter() - start
            advance()
        begin = end
    return {name: steps / spent for name, spent in seconds.items()}


def dense_torch(network: Network, trace: Trace) -> dict[str, Callable[[int], int]]:
    """The dense float network in PyTorch at batch 1 on one thread, in the formats that it offers.

    Each decides on frame t of the trace: from stacked uint8 pixels, which wait ready-made, to the
    best action. Empty where torch is not installed.
    """
    if find_spec("torch") is None:
        return {}
    import torch

    torch.set_num_threads(1)
    observations: list[Frames] = []
    for begin, end in _episodes(trace.starts):
        observations += frame_history(network.input, trace.frames[begin:end])
    pixels = torch.from_numpy(np.stack(observations))[:, None]

    def contender(dtype: Any, layout: Any) -> Callable[[int], int]:
        module = _torch_module(network).to(dtype=dtype, memory_format=layout)

        def decide(t: int) -> int:
            with torch.inference_mode():
                x = pixels[t].to(dtype=dtype, memory_format=layout).mul_(1 / PIXEL_MAX)
                return int(module(x).argmax())

        return decide

    return {
        "dense float32": contender(torch.float32, torch.contiguous_format),
        "dense float32, channels last": contender(torch.float32, torch.channels_last),
        "dense bfloat16": contender(torch.bfloat16, torch.contiguous_format),
        "dense bfloat16, channels last": contender(torch.bfloat16, torch.channels_last),
    }


def _episodes(starts: npt.NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """First step and end of each episode."""
    begins = np.flatnonzero(starts).tolist()
    return zip(begins, [*begins[1:], len(starts)], strict=True)


def _torch_module(network: Network) -> Any:
    """The network as a `torch.nn.Sequential`."""
    import torch
    from torch import nn

    modules: list[Any] = []
    for layer in network.layers:
        if isinstance(layer, AvgPool):
            modules.append(nn.AvgPool2d(layer.kernel, layer.stride, layer.padding))
        elif isinstance(layer, Conv):
            out, inputs, *kernel = layer.weight.shape
            modules.append(nn.Conv2d(inputs, out, kernel, layer.stride, layer.padding))
        elif isinstance(layer, Dense):
            modules.append(nn.Linear(*reversed(layer.weight.shape)))
        else:
            modules.append(nn.Flatten())
            continue
        if isinstance(layer, Conv | Dense):
            modules[-1].weight.data = torch.tensor(layer.weight)
            modules[-1].bias.data = torch.tensor(layer.bias)
        if layer.activation == "relu":
            modules.append(nn.ReLU())
    return nn.Sequential(*modules).eval()


def run_bench(
    games: Sequence[str],
    lanes: Sequence[int],
    *,
    steps: int,
    seed: int,
    show: Callable[[str, int], object] = lambda text, total: None,
) -> dict[str, Any]:
    """All figures as plain JSON types.

    `results` has one entry for each game and build, see `Result.to_json`; `utilisation` has the
    geometric mean and the worst of each build; `speeds` the decisions a second on the first game,
    `sim` with the first build, `dense ...` in PyTorch where it is installed. `show(text, total)`
    is called before each of `total` pieces of work.
    """
    from reticent_sim.build import build_folder, library

    configs = {count: BuildConfig.for_lanes(count) for count in lanes}
    total = len(configs) + len(games) * (steps + 1) + 1
    for config in configs.values():
        show(f"building the core with {config.lanes} lanes (a minute, once)", total)
        library(config)
    results: list[dict[str, Any]] = []
    speeds: dict[str, float] = {}
    for game in games:
        show(f"{game}: recording and compiling", total)
        agent = bench_agent(game)
        network = agent.quantised()
        folder = build_folder() / "traces"
        trace = load_trace(game, network, steps=steps, seed=seed, folder=folder)
        with ExitStack() as stack:
            cores, models = {}, {}
            for count, config in configs.items():
                image = compile_network(network, config, list(agent.calibration))
                models[count] = CycleModel(image)
                cores[count] = image_backend("sim", image)
                stack.callback(cores[count].close)
            comparing = partial(show, f"{game}: comparing every frame", total)
            found = check_game(agent, network, trace, cores, models, seed=seed, advance=comparing)
            results += [result.to_json() for result in found.values()]
            if game == games[0]:
                show(f"{game}: timing", total)
                speeds = _speeds(agent.network, network, trace, cores[lanes[0]])
    return {
        "version": __version__,
        "steps": steps,
        "seed": seed,
        "threshold": DEFAULT_THRESHOLD,
        "results": results,
        "utilisation": {str(count): summary(results, count) for count in lanes},
        "speeds": {
            "game": games[0],
            "lanes": lanes[0],
            "torch": version("torch").partition("+")[0] if find_spec("torch") else None,
            "decisions_per_second": speeds,
        },
    }


def summary(results: Iterable[Mapping[str, Any]], lanes: int) -> dict[str, float | None]:
    """Geometric mean and worst of the games' utilisations on one build."""
    values = [r["utilisation"] for r in results if r["lanes"] == lanes and r["utilisation"]]
    if not values:
        return {"geometric_mean": None, "worst": None}
    return {"geometric_mean": float(np.exp(np.mean(np.log(values)))), "worst": min(values)}


def _speeds(
    network: Network, quantised: QuantisedNetwork, trace: Trace, core: Backend
) -> dict[str, float]:
    """Every way of running one network."""
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

    contenders = {name: contender(backend) for name, backend in backends.items()}
    return measure_speeds(contenders | dense_torch(network, trace), reset, trace)
