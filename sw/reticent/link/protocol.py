"""The layout of the link: packets, requests, replies, link registers. The one place for it.

Host and gateware both take it from here; `docs/protocol.md` explains it byte by byte. All numbers
are little endian. A packet travels COBS-encoded, with a zero byte after it:

    request: kind u8 | sequence u32 | payload | CRC-32 of all before
    reply:   kind | 0x80 | sequence | payload | status u8 | CRC-32 of all before
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from cobs import cobs

from ..config import BuildConfig
from ..errors import UserError
from ..layout import LANE_SHIFT, SPACE_SHIFT

__all__ = [
    "ADDRESS",
    "COUNT",
    "CRC_BYTES",
    "DELIMITER",
    "FINAL",
    "HEADER_BYTES",
    "LINK_SPACE",
    "LINK_WORDS",
    "PROTOCOL_VERSION",
    "REPLY_BIT",
    "REPLY_EXTRA",
    "REQUEST_EXTRA",
    "TAG_WORDS",
    "WIDTH",
    "Hello",
    "LinkWord",
    "Packet",
    "Reply",
    "Request",
    "Status",
    "check_runs",
    "decode",
    "digest",
    "encode_request",
    "link_address",
    "link_words",
    "parse_reply",
    "read_payload",
    "write_runs",
]

PROTOCOL_VERSION = 2
DELIMITER = 0
REPLY_BIT = 0x80
HEADER_BYTES, CRC_BYTES, STATUS_BYTES = 5, 4, 1
REQUEST_EXTRA = HEADER_BYTES + CRC_BYTES  # bytes of a request beside its payload
REPLY_EXTRA = REQUEST_EXTRA + STATUS_BYTES

# Fields of payloads, in bytes. A run of words to write is address, width, count, data.
ADDRESS, WIDTH, COUNT = 4, 1, 2
FINAL = 1  # flag of FRAME: the frame is complete with this part

Words = npt.NDArray[np.uint32]


class Request(enum.IntEnum):
    """Kinds of requests, with their payloads and the payloads of their replies."""

    HELLO = 1  # nothing; reply: all link words. Sets the sequence number
    WRITE = 2  # runs of address u32, width u8 (bytes a word), count u16, words; reply: digest u32
    READ = 3  # address u32, count u16; reply: the words, 4 bytes each
    FRAME = 4  # flags u8, pixels (`reticent.link.pixels`); reply: the result's words, when FINAL
    CHECK = 5  # runs of address u32, count u16; reply: digest u32 of what the memories hold there


class Status(enum.IntEnum):
    """Last byte of a reply, before its checksum."""

    OK = 0
    NO_SESSION = 1  # the board was reset since the last HELLO: say HELLO
    UNKNOWN = 2  # no such request
    MALFORMED = 3  # the payload ends in the middle of something, or too late
    NO_ANSWER = 4  # the core did not take or give a word in time
    TOO_LONG = 5  # the reply does not fit the board's buffer


LINK_SPACE = 15  # of addresses: words of the link itself, not of the core
TAG_WORDS = 4
NAME_WORDS = 4
LINK_WORD_LIMIT = 64


class LinkWord(enum.IntEnum):
    """Words of the link itself, read only but for the tag."""

    PROTOCOL = 0
    DEVICE = 1  # `layout.DEVICE_VERSION`
    IMAGE = 2  # `config.IMAGE_VERSION`
    BUILD = 3  # `BuildConfig.hash`
    CLOCK = 4  # Hz
    BAUD = 5  # of the board's serial port; 0: another transport
    REQUEST_BYTES = 6  # of the longest request, before COBS
    REPLY_BYTES = 7  # of the longest reply, before COBS
    BOOT = 8  # resets since power-up
    RECEIVED = 9  # intact requests
    DAMAGED = 10  # packets that were damaged or too long
    REPEATED = 11  # requests that came again; their stored reply was sent again
    STRAY = 12  # requests with a sequence number that is neither the next nor the last
    LOST = 13  # bytes that came while nobody could take them
    LINE = 14  # characters with a wrong stop bit
    STUCK = 15  # times that the core did not answer
    # Written by the host: which image the memories hold. Zero after a reset, and as soon as a
    # memory of the core is written.
    TAG = 16
    NAME = TAG + TAG_WORDS  # of the board, ASCII
    CONFIG = NAME + NAME_WORDS  # fields of `BuildConfig` in their order


LINK_WORDS = LinkWord.CONFIG + len(fields(BuildConfig))
assert LINK_WORDS <= LINK_WORD_LIMIT


def link_address(word: int) -> int:
    """Address of a link word."""
    return (LINK_SPACE << SPACE_SHIFT) | word


def link_words(config: BuildConfig, name: str) -> dict[int, int]:
    """The constant link words of a build: what does not depend on clock, buffers or history."""
    from ..config import IMAGE_VERSION
    from ..layout import DEVICE_VERSION

    text = name.encode("ascii").ljust(4 * NAME_WORDS, b"\0")
    if len(text) > 4 * NAME_WORDS:
        raise UserError(f"board name {name!r} is too long: give up to {4 * NAME_WORDS} characters")
    return {
        LinkWord.PROTOCOL: PROTOCOL_VERSION,
        LinkWord.DEVICE: DEVICE_VERSION,
        LinkWord.IMAGE: IMAGE_VERSION,
        LinkWord.BUILD: config.hash,
        **dict(enumerate(struct.unpack(f"<{NAME_WORDS}I", text), LinkWord.NAME)),
        **dict(enumerate(config.to_dict().values(), LinkWord.CONFIG)),
    }


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a board says about itself."""

    name: str
    config: BuildConfig
    clock: int  # Hz
    baud: int  # bit/s; 0: no serial port
    request_bytes: int
    reply_bytes: int
    boot: int
    device_version: int
    image_version: int
    tag: bytes  # of the image that it holds; zeros: none
    counters: dict[str, int]  # error and traffic counters by name

    @classmethod
    def from_words(cls, words: Sequence[int]) -> Hello:
        """Read the reply to HELLO; raises UserError for another version of protocol or build."""
        if not words or words[LinkWord.PROTOCOL] != PROTOCOL_VERSION:
            raise UserError(
                f"the board speaks version {words[0] if words else 'nothing'} of the link, this "
                f"program {PROTOCOL_VERSION}: build both from the same release"
            )
        names = [field.name for field in fields(BuildConfig)]
        if len(words) != LINK_WORDS:
            raise UserError(
                f"the board describes itself in {len(words)} words, this program expects "
                f"{LINK_WORDS}: build both from the same release"
            )
        config = BuildConfig.from_dict(dict(zip(names, words[LinkWord.CONFIG :], strict=True)))
        if config.hash != words[LinkWord.BUILD]:
            raise UserError(
                f"the board is build {words[LinkWord.BUILD]:08x}, which is none of this "
                "program's: build both from the same release"
            )
        counted = range(LinkWord.RECEIVED, LinkWord.TAG)
        return cls(
            name=_bytes(words[LinkWord.NAME : LinkWord.CONFIG])
            .rstrip(b"\0")
            .decode("ascii", "replace"),
            config=config,
            clock=words[LinkWord.CLOCK],
            baud=words[LinkWord.BAUD],
            request_bytes=words[LinkWord.REQUEST_BYTES],
            reply_bytes=words[LinkWord.REPLY_BYTES],
            boot=words[LinkWord.BOOT],
            device_version=words[LinkWord.DEVICE],
            image_version=words[LinkWord.IMAGE],
            tag=_bytes(words[LinkWord.TAG : LinkWord.NAME]),
            counters={LinkWord(i).name.lower(): words[i] for i in counted},
        )


def _bytes(words: Sequence[int]) -> bytes:
    return b"".join(int(word).to_bytes(4, "little") for word in words)


class Packet(NamedTuple):
    """A request that arrived intact."""

    kind: int
    sequence: int
    payload: bytes


class Reply(NamedTuple):
    """A reply that arrived intact."""

    kind: int
    sequence: int
    payload: bytes
    status: int


def _seal(body: bytes) -> bytes:
    return cobs.encode(body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")) + b"\0"


def encode_request(kind: int, sequence: int, payload: bytes) -> bytes:
    """A request as it travels, the delimiter included."""
    return _seal(struct.pack("<BI", kind, sequence) + payload)


def decode(packet: bytes) -> bytes | None:
    """What a packet (without delimiter) holds before its checksum; None when it is damaged."""
    try:
        body = cobs.decode(packet)
    except cobs.DecodeError:
        return None
    body, sum_ = body[:-CRC_BYTES], body[-CRC_BYTES:]
    if len(body) < HEADER_BYTES or zlib.crc32(body).to_bytes(CRC_BYTES, "little") != sum_:
        return None
    return body


def parse_reply(packet: bytes) -> Reply | None:
    """A reply from a packet (without delimiter); None when it is damaged or no reply."""
    body = decode(packet)
    if body is None or len(body) < HEADER_BYTES + STATUS_BYTES or not body[0] & REPLY_BIT:
        return None
    kind, sequence = struct.unpack_from("<BI", body)
    return Reply(kind & ~REPLY_BIT, sequence, body[HEADER_BYTES:-STATUS_BYTES], body[-1])


def read_payload(address: int, count: int) -> bytes:
    """Payload of READ."""
    return struct.pack("<IH", address, count)


def write_runs(addresses: Words, data: Words, room: int) -> Iterable[tuple[bytes, int]]:
    """Payloads of WRITE, in order, for words at any addresses: (payload, words in it).

    Words at consecutive addresses of one memory share a header; each run has as many bytes a word
    as its largest one needs. `room` bytes are free for a payload.
    """
    head = ADDRESS + WIDTH + COUNT
    payload, words = bytearray(), 0
    for start, end in _runs(addresses):
        width = max(1, -(-int(data[start:end].max()).bit_length() // 8))
        bytes_ = data[start:end].astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width]
        while start < end:
            if len(payload) + head + width > room:
                yield bytes(payload), words
                payload, words = bytearray(), 0
            count = min(end - start, (room - len(payload) - head) // width)
            payload += struct.pack("<IBH", int(addresses[start]), width, count)
            payload += bytes_[:count].tobytes()
            bytes_ = bytes_[count:]
            start, words = start + count, words + count
    if payload:
        yield bytes(payload), words


def check_runs(addresses: Words, room: int, most: int) -> Iterable[tuple[bytes, int]]:
    """Payloads of CHECK for words at any addresses, in order: (payload, words in it, up to `most`).

    `room` bytes are free for a payload.
    """
    payload, words = bytearray(), 0
    for start, end in _runs(addresses):
        while start < end:
            if words == most or len(payload) + ADDRESS + COUNT > room:
                yield bytes(payload), words
                payload, words = bytearray(), 0
            count = min(end - start, most - words)
            payload += read_payload(int(addresses[start]), count)
            start, words = start + count, words + count
    if payload:
        yield bytes(payload), words


def _runs(addresses: Words) -> Iterable[tuple[int, int]]:
    """(start, end) of what lies at consecutive addresses of one memory."""
    space = addresses >> LANE_SHIFT
    follows = (np.diff(addresses.astype(np.int64)) == 1) & (np.diff(space) == 0)
    starts = np.flatnonzero(np.concatenate([[True], ~follows]))
    ends = np.concatenate([starts[1:], [len(addresses)]])
    return zip(starts.tolist(), ends.tolist(), strict=True)


def digest(addresses: Words, data: Words) -> int:
    """What a board answers to WRITE and CHECK: CRC-32 of each address and word, in order."""
    return zlib.crc32(np.stack([addresses, data], axis=1).astype("<u4").tobytes())
