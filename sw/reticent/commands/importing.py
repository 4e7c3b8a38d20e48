"""`reticent import`: make an agent file from trained weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..importer import PRESETS, from_tensors, load_shape, load_tensors, preset_shape
from ..quantise import DEFAULT_THRESHOLD

EXAMPLES = """\
examples:
  reticent import breakout.safetensors --preset reference --game breakout -o agents/mine.npz
  reticent import q.pt --shape shape.json --game pong --history repeat -o agents/pong.npz

The preset `reference` is 84x84x4 -> conv 32 8x8/4 -> conv 32 4x4/2 -> conv 64 3x3/2 -> dense 512
-> dense actions with ReLU between, tensors conv1|conv2|conv3|fc1|out .weight|.bias.

A shape file describes any other; a layer's name is that of its tensors, before .weight:

  {"input": {"height": 84, "width": 84, "channels": 1, "stack": 4, "history": "zeros"},
   "layers": [
     {"type": "conv", "name": "features.0", "stride": [4, 4], "activation": "identity"},
     {"type": "batchnorm", "name": "features.1", "activation": "relu"},
     {"type": "avgpool", "name": "pool", "kernel": [2, 2], "stride": [2, 2]},
     {"type": "flatten"},
     {"type": "dense", "name": "q", "activation": "identity"}]}

The network must take pixels as x / 255 and be trained with frame skip 4 on 84x84 grey frames.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "import",
        help="make an agent file from trained weights",
        description="Read the weights of a PyTorch network (.safetensors, or the state dict in a "
        ".pt or .pth file), play to record calibration frames, and write an agent file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the weights: .safetensors, .pt or .pth")
    shape = parser.add_mutually_exclusive_group(required=True)
    shape.add_argument("--preset", choices=tuple(PRESETS), help="a known network (see below)")
    shape.add_argument("--shape", type=Path, metavar="FILE.json", help="its layers (see below)")
    add("--game", required=True, help="the game that it plays")
    add("-o", "--output", type=Path, required=True, metavar="FILE.npz", help="the agent file")
    add(
        "--history",
        choices=("zeros", "repeat"),
        help="what the frames before the first one held in training (as the shape says; "
        "zeros for the preset)",
    )
    add("--frames", type=int, default=200, metavar="N", help="calibration frames (200)")
    add("--seed", type=int, default=1, metavar="N", help="of the calibration game (1)")
    add("--provenance", metavar="TEXT", help="how it was trained (the name of FILE)")
    add("--score", default="not measured", metavar="TEXT", help="what it reaches (not measured)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Import; returns the exit code."""
    from ..agent import Agent, load_agent, save_agent
    from ..atari import FRAME_SHAPE, AtariGame, record_trace
    from ..backends import ModelBackend
    from ..calibrate import tune_scales
    from ..engine import FloatEngine
    from .info import show_agent

    output: Path = arguments.output
    if output.is_dir() or not output.parent.is_dir():
        raise UserError(f"-o {output} cannot be written: name a file in a folder that exists")
    if arguments.frames < 1:
        raise UserError(f"--frames is {arguments.frames}: give 1 or more")
    shape = preset_shape(arguments.preset) if arguments.preset else load_shape(arguments.shape)
    if arguments.history:
        shape = shape | {"input": shape.get("input", {}) | {"history": arguments.history}}
    network = from_tensors(load_tensors(arguments.file), shape)
    if network.input.frame_shape != FRAME_SHAPE:
        raise UserError(
            f"the network watches frames of {network.input.frame_shape}: Atari games give "
            f"{FRAME_SHAPE}"
        )
    game = AtariGame(arguments.game)
    game.close()
    if network.outputs != len(game.actions):
        raise UserError(
            f"the network has {network.outputs} outputs, {game.name} has the actions "
            f"{', '.join(game.actions)}: give the game that it was trained on"
        )
    policy = ModelBackend("float", FloatEngine(network, DEFAULT_THRESHOLD))
    frames, starts = record_trace(game.name, policy, arguments.frames, seed=arguments.seed)
    frames = frames[starts.cumsum() == 1]  # calibration is one unbroken stretch
    agent = Agent(
        name=output.name,
        game=game.name,
        network=network,
        actions=game.actions,
        scales=tuple(tune_scales(network, frames)),
        calibration=frames,
        provenance=arguments.provenance or f"imported from {arguments.file.name}",
        score=arguments.score,
    )
    save_agent(agent, output)
    show_agent(load_agent(output), Console())
    return 0
