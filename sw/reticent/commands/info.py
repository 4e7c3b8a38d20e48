"""`reticent info`: what a file holds."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..agent import Agent, load_agent

EXAMPLES = """\
examples:
  reticent info agents/breakout.npz
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "info",
        help="show what an agent file holds",
        description="Show an agent file: its network with densities and multiplications, "
        "where it comes from, and its hash.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="an agent file (.npz)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print; returns the exit code."""
    show_agent(load_agent(arguments.file), Console())
    return 0


def show_agent(agent: Agent, console: Console) -> None:
    """Print what an agent is."""
    network, spec = agent.network, agent.network.input
    older = {"zeros": "zeros", "repeat": "copies of the first"}[spec.history]
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("agent", agent.name),
        ("game", agent.game),
        ("actions", ", ".join(agent.actions)),
        ("frame", f"{spec.height} x {spec.width} x {spec.channels}"),
        ("stack", f"{spec.stack} frames; before the first one: {older}"),
        ("calibration", f"{len(agent.calibration)} frames"),
        ("provenance", agent.provenance),
        ("score", agent.score),
        ("sha256", agent.sha256 or "not from a file"),
    ):
        facts.add_row(Text(name, style="dim"), Text(value))

    layers = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("layer", "input", "kernel/stride", "output"):
        layers.add_column(heading)
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


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)
