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

__all__ = [
    "BACKENDS",
    "ModelBackend",
    "golden_model",
    "image_backend",
    "make_backend",
    "make_model",
    "quantised",
]

BACKENDS = ("float", "golden", "sim", "fpga")


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
        return StepResult(
            outputs=step.outputs, events=tuple(step.events), significant=tuple(step.significant)
        )

    def accumulators(self) -> list[npt.NDArray[np.int64]]:
        """Accumulators of each layer, (out, h, w)."""
        return self.model.acc

    def close(self) -> None:
        """Nothing is held."""


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


def make_backend(name: str, agent: Agent, thresholds: Thresholds, config: BuildConfig) -> Backend:
    """The backend called `name`, ready for its first frame.

    `thresholds` are in real units: one, or one for the input and each hidden layer. `golden` and
    `sim` quantise with the widths of `config`; the other choices in it matter to `sim` only.
    Raises `UserError` for an unknown name or a network that does not fit.
    """
    _check_name(name)
    if name == "sim":
        from .compiler import compile_network

        network = quantised(agent, thresholds, config)
        return image_backend(name, compile_network(network, config, list(agent.calibration)))
    return make_model(name, agent, thresholds, config)


def image_backend(name: str, image: Image) -> Backend:
    """An image on the hardware called `name`, ready for its first frame.

    Raises `UserError` for a backend that is no hardware, `ToolError` when the hardware fails.
    """
    _check_name(name)
    if name != "sim":
        raise UserError(f"backend {name} runs no image: give --backend sim")
    from reticent_sim.backend import sim_backend

    backend: Backend = sim_backend(image.config, image)
    return backend


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise UserError(f"there is no backend {name!r}: give one of {', '.join(BACKENDS)}")
    if name == "fpga":
        raise UserError(
            "backend fpga: this version drives no board yet; give --backend sim for the same "
            "gateware in co-simulation"
        )
