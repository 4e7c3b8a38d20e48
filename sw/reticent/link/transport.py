"""A board as a backend: the transport over a link, and the accelerator behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from rich.progress import TimeRemainingColumn

from ..accelerator import Accelerator
from ..backend import FrameTraffic, LinkUse
from ..errors import ToolError, UserError
from ..image import Image
from ..layout import (
    COPY_SHIFT,
    LANE_SHIFT,
    SPACE_SHIFT,
    Register,
    ResultLayout,
    Space,
    address,
    word_index_bits,
)
from ..progress import progress_line
from .client import Client
from .pixels import encode_frame, split_frame
from .protocol import (
    FINAL,
    TAG_WORDS,
    LinkWord,
    Request,
    check_runs,
    digest,
    link_address,
    read_payload,
    write_runs,
)

__all__ = ["BoardAccelerator", "LinkTransport", "load_progress"]

Words = npt.NDArray[np.uint32]
CHECKED = 4096  # words of one request; the core reads them in about a millisecond
CLOSE = 4  # words: what lies so near is read along, rather than in a request of its own
Progress = Callable[[int, int], None]  # words written, of


class LinkTransport:
    """Commands and frames over a client. `StateLost` goes through to the caller.

    `progress` is told how far a load is. `damage` says what was wrong in the memories of a board
    that claimed to hold the image that was loaded last.
    """

    def __init__(self, client: Client, progress: Progress | None = None) -> None:
        self.client = client
        self._progress = progress
        self.damage: str | None = None
        self._before: npt.NDArray[np.uint8] | None = None
        self.frames: list[FrameTraffic] = []

    def load(self, image: Image) -> bool:
        """Make the board hold the image and start an episode; False if it held it already.

        Memories are written only when the board's tag is not the image's, or when they do not hold
        what it promises; `damage` tells about that. After writing, every word is read back from
        the memories. Registers are written, and read back, in any case.
        """
        hello = self.client.hello
        assert hello is not None
        if hello.config.hash != image.config.hash:
            raise UserError(
                f"the image is for build {image.config.hash:08x}, the board is build "
                f"{hello.config.hash:08x}: compile the image for this board"
            )
        result = 4 * ResultLayout(image.outputs, len(image.layers)).words
        if result > self.client.reply_room:
            raise UserError(
                f"a result of this network has {result} bytes, the board sends up to "
                f"{self.client.reply_room}: build it with larger reply_bytes"
            )
        addresses, data = image.writes()
        of_memory = addresses >> SPACE_SHIFT != Space.REGISTER
        tag = image.tag
        self.damage = self.difference(image) if self._read_tag() == tag else None
        fresh = self._read_tag() != tag or self.damage is not None
        if fresh:
            self._write(addresses[of_memory], data[of_memory], self._progress)
            self._insist(self.difference(image))
            words = np.frombuffer(tag, "<u4").astype(np.uint32)
            self._write(
                np.array([link_address(LinkWord.TAG + i) for i in range(TAG_WORDS)], np.uint32),
                words,
            )
            if self._read_tag() != tag:
                raise ToolError("the board does not keep the tag of its image: reset it")
        addresses, data = addresses[~of_memory], data[~of_memory]
        self.write(addresses, data)
        kept = addresses != address(Space.REGISTER, Register.RESTART)
        self._insist(self._differing(image, addresses[kept], data[kept]))
        return fresh

    @staticmethod
    def _insist(difference: str | None) -> None:
        if difference:
            raise ToolError(
                f"{difference}, just after it was loaded: load again; if that does not help, its "
                "memories or its clock are at fault"
            )

    def difference(self, image: Image) -> str | None:
        """Where the board's memories do not hold the image, in words; None when they do.

        The board reads its memories and answers with digests; where one is wrong, the words are
        read.
        """
        return self._differing(image, *image.contents())

    def _differing(self, image: Image, addresses: Words, data: Words) -> str | None:
        at = 0
        for payload, count in check_runs(addresses, self.client.room, CHECKED):
            where, right = addresses[at : at + count], data[at : at + count]
            reply = self.client.request(Request.CHECK, payload)
            if int.from_bytes(reply, "little") != digest(where, right):
                found = self.read(where)
                wrong = np.flatnonzero(found != right)
                if not len(wrong):
                    return f"the board reads {_place(image, int(where[0]))} differently each time"
                i = wrong[0]
                return (
                    f"the board holds {found[i]:#x} in {_place(image, int(where[i]))} "
                    f"instead of {right[i]:#x}"
                )
            at += count
        return None

    def _read_tag(self) -> bytes:
        return self.client.request(
            Request.READ, read_payload(link_address(LinkWord.TAG), TAG_WORDS)
        )

    def write(self, addresses: Words, data: Words) -> None:
        """Execute writes in order."""
        self._before = None
        self._write(np.asarray(addresses, np.uint32), np.asarray(data, np.uint32))

    def _write(self, addresses: Words, data: Words, progress: Progress | None = None) -> None:
        at = 0
        for payload, count in write_runs(addresses, data, self.client.room):
            reply = self.client.request(Request.WRITE, payload)
            expected = digest(addresses[at : at + count], data[at : at + count])
            if int.from_bytes(reply, "little") != expected:
                raise ToolError(
                    f"the board took other words than it was sent, from address "
                    f"{addresses[at]:#010x}: this is a defect of the board's link"
                )
            at += count
            if progress:
                progress(at, len(data))

    def read(self, addresses: Words) -> Words:
        """Read words; those that lie close together in one request, with what is between them."""
        addresses = np.asarray(addresses, np.uint32)
        if not len(addresses):
            return addresses
        wanted, places = np.unique(addresses, return_inverse=True)
        most = self.client.reply_room // 4
        found = np.zeros(len(wanted), np.uint32)
        first = 0
        breaks = np.flatnonzero(np.diff(wanted.astype(np.int64)) > CLOSE) + 1
        for end in [*breaks.tolist(), len(wanted)]:
            while first < end:
                start = int(wanted[first])
                last = int(np.searchsorted(wanted[:end], start + most))  # index after the last one
                count = int(wanted[last - 1]) - start + 1
                reply = self.client.request(Request.READ, read_payload(start, count))
                if len(reply) != 4 * count:
                    raise ToolError(f"the board answered {len(reply)} bytes for {count} words")
                words = np.frombuffer(reply, "<u4")
                found[first:last] = words[wanted[first:last] - start]
                first = last
        return found[places].reshape(addresses.shape)

    def frame(self, pixels: npt.NDArray[np.uint8], words: int) -> Words:
        """Send one frame, return its result packet."""
        traffic = self.client.traffic
        began = traffic.bytes_sent, traffic.bytes_received, traffic.seconds
        tokens = encode_frame(pixels, self._before)
        # Until the answer is there, nobody knows what the board compares the next frame with.
        self._before = None
        parts = split_frame(tokens, self.client.room - 1)
        for part in parts[:-1]:
            self.client.request(Request.FRAME, bytes([0]) + part)
        reply = self.client.request(Request.FRAME, bytes([FINAL]) + parts[-1])
        if len(reply) != 4 * words:
            raise ToolError(f"the result packet has {len(reply)} bytes, expected {4 * words}")
        self._before = pixels.copy()
        self.frames.append(
            FrameTraffic(
                raw=pixels.size,
                sent=traffic.bytes_sent - began[0],
                received=traffic.bytes_received - began[1],
                seconds=traffic.seconds - began[2],
            )
        )
        return np.frombuffer(reply, "<u4").astype(np.uint32)

    def close(self) -> None:
        """Let go of the board."""
        self.client.close()


def _place(image: Image, where: int) -> str:
    """An address of a memory, for people."""
    space = Space(where >> SPACE_SHIFT)
    if space == Space.REGISTER:
        return f"register {where}"
    row = (where & (1 << COPY_SHIFT) - 1) >> word_index_bits(image.config, space)
    lane = where >> LANE_SHIFT & (1 << SPACE_SHIFT - LANE_SHIFT) - 1
    of_lane = f" of lane {lane}" if image.memories[space].ndim == 3 else ""
    return f"{space.name}{of_lane}, row {row}"


class BoardAccelerator(Accelerator):
    """An image on a board. `loaded` says whether its memories had to be written."""

    _transport: LinkTransport

    def _load(self) -> None:
        self.loaded = self._transport.load(self.image)

    def link_use(self) -> LinkUse:
        """What went over the link so far."""
        client = self._transport.client
        assert client.hello is not None
        return LinkUse(
            board=f"{client.hello.name} at {client.port}",
            clock=client.hello.clock,
            baud=client.hello.baud,
            loaded=self.loaded,
            frames=self._transport.frames,
            retries=client.traffic.retries,
            resets=client.traffic.sessions - 1,
            damage=self._transport.damage,
        )


@contextlib.contextmanager
def load_progress() -> Iterator[Progress]:
    """What to tell a `LinkTransport`, so that a load shows a bar on a terminal."""
    words = "{task.completed:,.0f} of {task.total:,.0f} words"
    with progress_line(words, TimeRemainingColumn()) as bar:
        task = bar.add_task("loading the image", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
