"""`reticent verilog`: the core as Verilog, for a design of one's own."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from .options import add_build_options, asked_build

EXAMPLES = """\
examples:
  reticent verilog --lanes 16 -o build/reticent-16
  reticent verilog --lanes 8 --set weight_depth=8192 queue_depth=512 -o core
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "verilog",
        help="write the core as Verilog with its sidecar",
        description="Write the core of a build as one Verilog file, and beside it a JSON file "
        "with its ports, register map, memory rows and versions.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_build_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write into"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write; returns the exit code."""
    config = asked_build(arguments)
    from reticent_hw.export import write_verilog

    try:
        paths = write_verilog(config, arguments.output)
    except OSError as error:
        raise UserError(
            f"--output {arguments.output} cannot be written ({error.strerror}): "
            "name a folder that can be"
        ) from None
    for path in paths:
        print(f"{path}: {path.stat().st_size:,} bytes")
    return 0
