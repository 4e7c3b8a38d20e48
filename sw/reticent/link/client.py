"""The host's side of the link over any byte channel: requests, replies, retries."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..accelerator import StateLost
from ..errors import ToolError
from .protocol import (
    DELIMITER,
    REPLY_EXTRA,
    REQUEST_EXTRA,
    Hello,
    Reply,
    Request,
    Status,
    encode_request,
    parse_reply,
)

__all__ = ["ByteChannel", "ChannelLost", "Client", "LinkError", "Traffic"]

TRIES = 6  # of one request; each waits twice as long as the one before
LATENCY = 0.05  # seconds beside the bytes' own time until a reply is missed
HELLO_LATENCY = 0.3
SLOWNESS = 5  # times what HELLO took


class ChannelLost(Exception):
    """The channel is gone: unplugged, closed at the other end. `reopen` may bring it back."""


class LinkError(ToolError):
    """The board did not answer, or answered that something is wrong."""


class ByteChannel(Protocol):
    """Moves bytes, not necessarily all of them, nor unharmed."""

    name: str
    seconds_a_byte: float  # on the wire, one direction

    def send(self, data: bytes) -> None:
        """Send; raises ChannelLost."""

    def receive(self, timeout: float) -> bytes:
        """What has arrived, at least one byte unless `timeout` seconds pass; raises ChannelLost."""

    def time(self) -> float:
        """Seconds, for measuring how long things take."""

    def discard(self) -> None:
        """Forget what arrived and was not received yet."""

    def reopen(self) -> None:
        """Open again after ChannelLost; raises ChannelLost."""

    def close(self) -> None:
        """Let go of it."""


@dataclass
class Traffic:
    """What went over a link since it was opened."""

    requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    retries: int = 0  # requests sent again
    damaged: int = 0  # replies that did not arrive intact
    stray: int = 0  # intact replies to something else
    reopened: int = 0  # times that the channel was lost and came back
    sessions: int = 0  # HELLOs that were answered
    seconds: float = 0.0  # from requests to their replies


class Client:
    """Sends a request at a time and waits for its reply.

    A request that gets no reply in time is sent again with the same sequence number; the board
    executes it once. `hello` is what the board said about itself last.

    Parameters
    ----------
    channel : the bytes
    number : gives the first sequence number of a session, 32 bits; random, so that nothing that is
        left of an older session can be taken for a part of this one
    sleep : waits, in seconds
    """

    def __init__(
        self,
        channel: ByteChannel,
        *,
        tries: int = TRIES,
        latency: float = LATENCY,
        number: Callable[[], int] = lambda: secrets.randbits(32),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._channel = channel
        self._tries, self._latency = tries, latency
        self._number, self._sleep = number, sleep
        self._sequence = 0
        self._arrived = bytearray()
        self.traffic = Traffic()
        self.hello: Hello | None = None
        self.connect()

    @property
    def port(self) -> str:
        """Where the board is."""
        return self._channel.name

    @property
    def room(self) -> int:
        """Bytes of the longest payload of a request."""
        assert self.hello is not None
        return self.hello.request_bytes - REQUEST_EXTRA

    @property
    def reply_room(self) -> int:
        """Bytes of the longest payload of a reply."""
        assert self.hello is not None
        return self.hello.reply_bytes - REPLY_EXTRA

    def connect(self) -> Hello:
        """Say HELLO; raises LinkError when nobody answers."""
        self._channel.discard()
        self._arrived.clear()
        self._sequence = self._number() & 0xFFFFFFFF
        before = self.traffic.seconds
        reply = self._exchange(Request.HELLO, b"", max(self._latency, HELLO_LATENCY))
        # A board that is slow to answer this (a simulated one) is given more time for the rest.
        self._latency = max(self._latency, SLOWNESS * (self.traffic.seconds - before))
        words = [
            int.from_bytes(reply.payload[i : i + 4], "little")
            for i in range(0, len(reply.payload), 4)
        ]
        self.hello = Hello.from_words(words)
        self.traffic.sessions += 1
        return self.hello

    def request(self, kind: Request, payload: bytes) -> bytes:
        """Execute a request once; returns the payload of its reply.

        Raises StateLost when the board was reset (the link is open again then), LinkError when
        it does not answer or refuses.
        """
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        try:
            reply = self._exchange(kind, payload, self._latency)
        except _Silence as silence:
            # Perhaps an old HELLO arrived late and moved the board's numbers: start anew.
            self._restart_session(silence)
            raise StateLost from None
        if reply.status == Status.NO_SESSION:
            self.connect()
            raise StateLost
        if reply.status == Status.NO_ANSWER:
            # The board has reset its core.
            self.connect()
            raise LinkError(
                f"{self._channel.name}: the core did not answer {kind.name}, and was reset"
            )
        if reply.status != Status.OK:
            why = Status(reply.status).name if reply.status in set(Status) else str(reply.status)
            raise LinkError(f"{self._channel.name}: the board refused {kind.name}: {why}")
        return reply.payload

    def _restart_session(self, silence: _Silence) -> None:
        try:
            self.connect()
        except _Silence:
            raise silence from None

    def _exchange(self, kind: Request, payload: bytes, latency: float) -> Reply:
        packet = encode_request(kind, self._sequence, payload)
        self.traffic.requests += 1
        began = self._channel.time()
        wait = latency + (len(packet) + 1024) * 2 * self._channel.seconds_a_byte
        lost: ChannelLost | None = None
        for attempt in range(self._tries):
            try:
                if lost:
                    self._sleep(min(1.0, latency * 2**attempt))
                    self._channel.reopen()
                    self._arrived.clear()
                    self.traffic.reopened += 1
                    lost = None
                # A delimiter first ends whatever a broken attempt left behind.
                again = attempt > 0 or kind == Request.HELLO
                data = bytes([DELIMITER]) * again + packet
                self._channel.send(data)
                self.traffic.bytes_sent += len(data)
                self.traffic.retries += attempt > 0
                reply = self._await(kind, wait)
            except ChannelLost as error:
                lost = error
                continue
            if reply is not None:
                self.traffic.seconds += self._channel.time() - began
                return reply
            wait *= 2
        if lost:
            raise LinkError(f"{self._channel.name}: {lost}")
        raise _Silence(
            f"{self._channel.name}: no Reticent answered {kind.name} in {self._tries} tries: is "
            "the board programmed and powered, and the baud rate that of its build?"
        )

    def _await(self, kind: Request, wait: float) -> Reply | None:
        """The reply to the current request, or None when time is up."""
        until = self._channel.time() + wait
        while True:
            end = self._arrived.find(DELIMITER)
            while end >= 0:
                packet = bytes(self._arrived[:end])
                del self._arrived[: end + 1]
                reply = parse_reply(packet) if packet else None
                if reply and reply.sequence == self._sequence and reply.kind == kind:
                    return reply
                if packet:
                    self.traffic.damaged += reply is None
                    self.traffic.stray += reply is not None
                end = self._arrived.find(DELIMITER)
            left = until - self._channel.time()
            if left <= 0:
                return None
            data = self._channel.receive(left)
            if not data:
                return None
            self.traffic.bytes_received += len(data)
            self._arrived += data

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class _Silence(LinkError):
    """No reply at all."""
