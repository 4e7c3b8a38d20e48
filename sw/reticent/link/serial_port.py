"""Serial ports as byte channels, and finding the board among them."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import serial
from serial.tools import list_ports

from ..errors import UserError
from .client import ChannelLost, Client, LinkError
from .protocol import Hello

__all__ = ["BAUD", "SerialChannel", "ask", "find_board", "open_board", "ports"]

BAUD = 1_000_000  # of the boards' presets unless they say otherwise
BITS_A_BYTE = 10  # start, eight data, stop
SEARCH_TRIES, SEARCH_LATENCY = 2, 0.1  # of a port at which perhaps no board is


class SerialChannel:
    """A serial port, for this process alone.

    Raises UserError, with the remedy, when the port cannot be opened.
    """

    def __init__(self, port: str, baud: int = BAUD) -> None:
        self.name = port
        self._baud = baud
        self.seconds_a_byte = BITS_A_BYTE / baud
        try:
            self._serial = self._open()
        except (OSError, ValueError) as error:
            raise UserError(_why(port, baud, error)) from None

    def _open(self) -> serial.Serial:
        found = serial.Serial(self.name, self._baud, timeout=0, write_timeout=5, exclusive=True)
        # Adapters of FTDI wait 16 ms for more bytes unless they are told not to.
        with contextlib.suppress(OSError, ValueError, NotImplementedError, AttributeError):
            found.set_low_latency_mode(True)
        return found

    def send(self, data: bytes) -> None:
        """Send; raises ChannelLost when the port is gone."""
        try:
            self._serial.write(data)
        except (OSError, serial.SerialException) as error:
            raise ChannelLost(str(error)) from None

    def receive(self, timeout: float) -> bytes:
        """What has arrived, at least a byte within `timeout` seconds; raises ChannelLost."""
        try:
            self._serial.timeout = timeout
            found = self._serial.read(1)
            return bytes(found + self._serial.read(self._serial.in_waiting)) if found else b""
        except (OSError, TypeError, serial.SerialException) as error:
            raise ChannelLost(str(error)) from None

    def time(self) -> float:
        """Seconds."""
        return time.monotonic()

    def discard(self) -> None:
        """Forget what has arrived."""
        with contextlib.suppress(OSError, serial.SerialException):
            self._serial.reset_input_buffer()

    def reopen(self) -> None:
        """Open the port again, if it is back; raises ChannelLost."""
        with contextlib.suppress(OSError):
            self._serial.close()
        try:
            self._serial = self._open()
        except (OSError, ValueError) as error:
            raise ChannelLost(_why(self.name, self._baud, error)) from None

    def close(self) -> None:
        """Let go of the port."""
        with contextlib.suppress(OSError):
            self._serial.close()


def _why(port: str, baud: int, error: Exception) -> str:
    """What is wrong with a port, and the remedy, in one line."""
    number = getattr(error, "errno", None)
    if number is None and (inside := re.search(r"\((\d+), ", str(error))):
        number = int(inside[1])  # pyserial tells some errors in words only
    if isinstance(error, ValueError):
        return f"{port} does not run at {baud} baud: give --baud a rate that the adapter has"
    if number == errno.ENOENT:
        others = ", ".join(ports()) or "none"
        return f"there is no port {port}: plug the board in, or give one of those here: {others}"
    if number in (errno.EACCES, errno.EPERM):
        group = "dialout"
        with contextlib.suppress(OSError, KeyError):
            group = grp.getgrgid(Path(port).stat().st_gid).gr_name
        user = os.environ.get("USER", "you")
        return (
            f"{port} may not be opened: join its group (sudo usermod -aG {group} {user}, then log "
            "in again)"
        )
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in str(error):
        return f"{port} is in use by another program: close that one, or give another --port"
    if number in (errno.ENOTTY, errno.EINVAL, errno.EISDIR):
        return f"{port} is no serial port: give the board's, for example /dev/ttyUSB1"
    return f"{port} cannot be opened ({error}): is the board plugged in?"


def ports() -> list[str]:
    """The serial ports of this computer."""
    return sorted(port.device for port in list_ports.comports())


def ask(port: str, baud: int) -> Hello:
    """What the board at a port says; raises UserError or LinkError when none does."""
    with contextlib.closing(SerialChannel(port, baud)) as channel:
        hello = Client(channel, tries=SEARCH_TRIES, latency=SEARCH_LATENCY).hello
        assert hello is not None
        return hello


def find_board(baud: int = BAUD, candidates: Iterable[str] | None = None) -> str:
    """The one port at which a board answers HELLO; raises UserError when there is not just one."""
    asked = list(ports() if candidates is None else candidates)
    answering, trouble = [], []
    for port in asked:
        try:
            ask(port, baud)
            answering.append(port)
        except LinkError:
            pass
        except UserError as error:
            text = str(error)
            trouble.append(text if text.startswith(port) else f"{port}: {text}")
    if len(answering) == 1:
        return answering[0]
    if answering:
        raise UserError(f"boards answer at {', '.join(answering)}: choose one with --port")
    reasons = "".join(f"; {reason}" for reason in trouble)
    raise UserError(
        f"no board answers at {baud} baud on any serial port (asked: {', '.join(asked) or 'none'}"
        f"{reasons}): plug one in and program it, or give --port and --baud"
    )


def open_board(port: str | None, baud: int | None) -> Client:
    """A client of the board at `port`, or of the only board that answers."""
    rate = BAUD if baud is None else baud
    channel = SerialChannel(port or find_board(rate), rate)
    try:
        return Client(channel)
    except BaseException:
        channel.close()
        raise
