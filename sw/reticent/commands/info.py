"""`reticent info`: what a file holds."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..agent import Agent, load_agent
from ..arithmetic import PIXEL_MAX
from ..config import IMAGE_VERSION
from ..errors import UserError
from ..image import MAGIC, Image
from ..layout import Register
from ..memory import memory_table

EXAMPLES = """\
examples:
  reticent info agents/breakout.npz
  reticent info breakout.image
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "info",
        help="show what an agent or image file holds",
        description="Show an agent file: its network with densities and multiplications, "
        "where it comes from, and its hash. Or an image file: the build that it is for, its "
        "layers and thresholds, and what it uses of each memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="an agent file or an image file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print; returns the exit code."""
    path, console = arguments.file, Console()
    try:
        with path.open("rb") as file:
            is_image = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give an agent file or an image file"
        ) from None
    if is_image:
        show_image(Image.load(path), path, console)
    else:
        show_agent(load_agent(path), console)
    return 0


def show_agent(agent: Agent, console: Console) -> None:
    """Print what an agent is."""
    network, spec = agent.network, agent.network.input
    older = {"zeros": "zeros", "repeat": "copies of the first"}[spec.history]
    facts = _facts(
        ("agent", agent.name),
        ("game", agent.game),
        ("actions", ", ".join(agent.actions)),
        ("frame", _by(spec.frame_shape)),
        ("stack", f"{spec.stack} frames; before the first one: {older}"),
        ("calibration", f"{len(agent.calibration)} frames"),
        ("provenance", agent.provenance),
        ("score", agent.score),
        ("sha256", agent.sha256 or "not from a file"),
    )
    layers = _table("layer", "input", "kernel/stride", "output")
    for heading in ("weights", "density", "dense mult."):
        layers.add_column(heading, justify="right")
    for layer in network.linear:
        padding = f" + {_by(layer.padding)}" if any(layer.padding) else ""
        layers.add_row(
            layer.name,
            _by(layer.in_shape),
            _by(layer.weight.shape[2:]) + "/" + _by(layer.stride) + padding,
            _by(layer.out_shape),
            "-" if layer.pool else f"{np.count_nonzero(layer.weight):,}",
            "-" if layer.pool else f"{np.count_nonzero(layer.weight) / layer.weight.size:.3f}",
            f"{layer.dense_multiplications:,}",
        )
    layers.add_section()
    layers.add_row(
        *("all", "", "", ""),
        f"{sum(np.count_nonzero(y.weight) for y in network.linear if not y.pool):,}",
        f"{network.density:.3f}",
        f"{sum(layer.dense_multiplications for layer in network.linear):,}",
    )
    console.print(facts, layers)


def show_image(image: Image, path: Path, console: Console) -> None:
    """Print what an image is."""
    config, origin = image.config, image.origin
    stack = image.registers[Register.STACK]
    older = "copies of the first" if image.registers[Register.REPEAT_FIRST] else "zeros"
    compiled_from = [("agent", "not compiled from one")]
    if origin:
        compiled_from = [
            ("agent", origin.agent),
            ("game", origin.game),
            ("actions", ", ".join(origin.actions)),
        ]
    facts = _facts(
        ("image", path.name),
        ("version", str(IMAGE_VERSION)),
        *compiled_from,
        ("network", image.network[:12]),
        ("frame", _by(image.frame_shape)),
        ("stack", f"{stack} frames; before the first one: {older}"),
        ("build", f"{config.hash:08x}: {config.lanes} lanes"),
        ("", ", ".join(f"{k} {v}" for k, v in config.to_dict().items() if k != "lanes")),
        ("sha256", hashlib.sha256(path.read_bytes()).hexdigest()),
    )
    layers = _table("layer", "output")
    for heading in ("T of inputs", "real value", "weights", "density", "dense mult."):
        layers.add_column(heading, justify="right")
    scales = [1 / PIXEL_MAX, *(layer.scale for layer in image.layers)]
    for layer, count, scale in zip(image.layers, image.thresholds, scales, strict=False):
        # A dense evaluation meets each weight, stored or not, once for each output position.
        weights = layer.dense // (layer.shape[1] * layer.shape[2])
        layers.add_row(
            layer.name,
            _by(layer.shape),
            str(count),
            f"{count * scale:.3g}",
            f"{layer.weights:,}",
            f"{layer.weights / weights:.3f}",
            f"{layer.dense:,}",
        )
    layers.add_section()
    layers.add_row(
        *("all", "", "", ""),
        f"{sum(layer.weights for layer in image.layers):,}",
        "",
        f"{sum(layer.dense for layer in image.layers):,}",
    )
    console.print(facts, layers, Text(memory_table(config, image.used)))


def _facts(*lines: tuple[str, str]) -> Table:
    facts = Table.grid(padding=(0, 2))
    for name, value in lines:
        facts.add_row(Text(name, style="dim"), Text(value))
    return facts


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)
