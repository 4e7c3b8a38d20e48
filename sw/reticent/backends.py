"""Making a backend by name. What a backend needs is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .agent import Agent
from .backend import Backend, StepResult
from .config import BuildConfig
from .errors import UserError
from .image import Image
from .quantise import QuantisedNetwork, Thresholds

if TYPE_CHECKING:
    from .engine import Engine, FloatEngine
    from .golden import Golden
    from .link.client import Client

__all__ = [
    "BACKENDS",
    "HARDWARE",
    "ModelBackend",
    "PredictingBackend",
    "golden_model",
    "image_backend",
    "make_backend",
    "make_model",
    "quantised",
]

BACKENDS = ("float", "golden", "sim", "fpga")
HARDWARE = ("sim", "fpga")


class ModelBackend:
    """A software model of the network, as a backend. Its state may be looked at: `model`."""

    def __init__(self, name: str, model: Engine | FloatEngine | Golden) -> None:
        self.name = name
        self.model = model
        # Compiles the fast engine now, so that no decision is timed with it.
        model.step(np.zeros(model.network.input.frame_shape, np.uint8))
        model.reset()

    def reset(self) -> None:
        """Start an episode."""
        self.model.reset()

    def step(self, frame: npt.NDArray[np.uint8]) -> StepResult:
        """Decide on one new frame."""
        step = self.model.step(frame)
        return StepResult(step.outputs, tuple(step.events), tuple(step.significant))

    def accumulators(self) -> list[npt.NDArray[np.int64]]:
        """Accumulators of each layer, (out, h, w)."""
        return self.model.acc

    def close(self) -> None:
        """Nothing is held."""


class PredictingBackend(ModelBackend):
    """The golden model, and the cycles that a device with `image` would take, predicted exactly."""

    def __init__(self, network: QuantisedNetwork, image: Image) -> None:
        from .cycles import CycleModel
        from .engine import Engine

        self._engine, self._cycles = Engine(network), CycleModel(image)
        self._cycles.compile()
        super().__init__("golden", self._engine)

    def reset(self) -> None:
        """Start an episode."""
        super().reset()
        self._cycles.reset()

    def step(self, frame: npt.NDArray[np.uint8]) -> StepResult:
        """Decide on one new frame, and predict its cycles."""
        result = super().step(frame)
        return StepResult(
            outputs=result.outputs,
            events=result.events,
            significant=result.significant,
            cycles=self._cycles.step(frame, self._engine.fired),
        )


def quantised(agent: Agent, thresholds: Thresholds, config: BuildConfig) -> QuantisedNetwork:
    """The agent in integers, with the widths of a build. `thresholds` as in `make_backend`."""
    return agent.quantised(
        thresholds,
        multiplier_bits=config.multiplier_bits,
        accumulator_bits=config.accumulator_bits,
    )


def make_model(
    name: str, agent: Agent, thresholds: Thresholds, config: BuildConfig
) -> ModelBackend:
    """The software model `float` or `golden`, on the fast engine; arguments of `make_backend`."""
    if name == "float":
        from .engine import FloatEngine

        return ModelBackend(name, FloatEngine(agent.network, thresholds))
    return golden_model(quantised(agent, thresholds, config))


def golden_model(network: QuantisedNetwork) -> ModelBackend:
    """The software model of an integer network, on the fast engine."""
    from .engine import Engine

    return ModelBackend("golden", Engine(network))


def make_backend(
    name: str,
    agent: Agent,
    thresholds: Thresholds,
    config: BuildConfig,
    board: Client | None = None,
) -> Backend:
    """The backend called `name`, ready for its first frame.

    `thresholds` are in real units: one, or one for the input and each hidden layer. All but `float`
    quantise with the widths of `config`; the other choices in it matter to hardware only. `fpga`
    needs a `board`. Raises `UserError` for an unknown name or a network that does not fit.
    """
    _check_name(name)
    if name in HARDWARE:
        from .compiler import compile_network

        network = quantised(agent, thresholds, config)
        image = compile_network(network, config, list(agent.calibration))
        return image_backend(name, image, board)
    return make_model(name, agent, thresholds, config)


def image_backend(name: str, image: Image, board: Client | None = None) -> Backend:
    """An image on the hardware called `name`, ready for its first frame.

    `fpga` needs a `board`; loading shows its progress on a terminal. Raises `UserError` for a
    backend that is no hardware, `ToolError` when the hardware fails.
    """
    _check_name(name)
    if name not in HARDWARE:
        raise UserError(f"backend {name} runs no image: give --backend sim or fpga")
    if name == "fpga":
        from .link.transport import BoardAccelerator, LinkTransport, load_progress

        if board is None:
            raise UserError("backend fpga needs a board: give --port")
        with load_progress() as progress:
            return BoardAccelerator(name, LinkTransport(board, progress), image)
    from reticent_sim.backend import sim_backend

    backend: Backend = sim_backend(image.config, image)
    return backend


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise UserError(f"there is no backend {name!r}: give one of {', '.join(BACKENDS)}")
