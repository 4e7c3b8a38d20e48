"""The link's layout: packets, runs of words, frame code; and the examples of docs/protocol.md."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.layout import DEVICE_ID, Register, Space, address
from reticent.link import protocol
from reticent.link.pixels import MOST, decode_frame, encode_frame, split_frame
from reticent.link.protocol import (
    LINK_WORDS,
    Hello,
    LinkWord,
    Request,
    Status,
    check_runs,
    decode,
    digest,
    encode_request,
    link_words,
    parse_reply,
    read_payload,
    write_runs,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()


def words(*values):
    return np.array(values, np.uint32)


def seal(*parts):
    """A reply as a board sends it."""
    return protocol._seal(b"".join(parts))


class TestDocumentation:
    """Every byte of docs/protocol.md is computed here."""

    def test_examples(self):
        codes = re.findall(r"^(?:[\w ]+):\s+((?:[0-9a-f]{2} ?)+)$", PAGE, re.MULTILINE)
        thresholds = words(16, 17), words(2, 300)
        ((write, count),) = write_runs(*thresholds, 99)
        assert count == 2
        ((check, _),) = check_runs(thresholds[0], 99, 99)
        before = np.array([[10, 20, 30, 40, 50, 60, 70, 80]] * 3, np.uint8)
        frame = before.copy()
        frame[0, 2], frame[0, 4], frame[2, 7] = 31, 51, 0
        tokens = b"".join(encode_frame(frame, before))
        assert [bytes.fromhex(code) for code in codes] == [
            encode_request(Request.HELLO, 0x01020304, b""),
            encode_request(Request.WRITE, 0x01020305, write),
            seal(
                struct.pack("<BI", 0x82, 0x01020305),
                digest(*thresholds).to_bytes(4, "little"),
                bytes([Status.OK]),
            ),
            encode_request(Request.READ, 0x01020306, read_payload(Register.ID, 1)),
            seal(struct.pack("<BIIB", 0x83, 0x01020306, DEVICE_ID, Status.OK)),
            encode_request(Request.CHECK, 0x01020307, check),
            seal(
                struct.pack("<BI", 0x85, 0x01020307),
                digest(*thresholds).to_bytes(4, "little"),
                bytes([Status.OK]),
            ),
            tokens,
            encode_request(Request.FRAME, 0x01020308, bytes([1]) + tokens),
            seal(struct.pack("<BIB", 0x84, 0x01020308, Status.NO_SESSION)),
        ]
        np.testing.assert_array_equal(decode_frame(tokens, frame.shape, before), frame)

    def test_tables(self):
        """Kinds, states and words have the numbers that the page gives them."""
        rows = re.findall(r"^\| (\d+)(?:-\d*)?(?: \|)? ([A-Z_]+)\b", PAGE, re.MULTILINE)
        found = {name: int(number) for number, name in rows}
        for enumeration in (Request, Status, LinkWord):
            for member in enumeration:
                assert found[member.name] == member, member.name


class TestPackets:
    def test_request_survives(self):
        for size in (0, 1, 253, 254, 255, 1000):
            payload = bytes(i % 7 for i in range(size))
            packet = encode_request(Request.READ, 0xFFFFFFFF, payload)
            assert packet.count(0) == 1
            assert packet[-1] == 0
            assert decode(packet[:-1]) == b"\x03\xff\xff\xff\xff" + payload

    @given(st.binary(max_size=40), st.integers(0, 400), st.integers(1, 255))
    def test_damage_is_noticed(self, payload, at, change):
        packet = bytearray(seal(struct.pack("<BI", 0x83, 7), payload, b"\0")[:-1])
        packet[at % len(packet)] ^= change
        for part in bytes(packet).split(b"\0"):
            assert parse_reply(part) is None

    @given(st.binary(max_size=64))
    def test_noise_is_no_reply(self, noise):
        assert parse_reply(noise) is None

    def test_request_is_no_reply(self):
        assert parse_reply(encode_request(Request.READ, 1, b"abc")[:-1]) is None


def execute(payloads):
    """What a board makes of WRITE payloads."""
    found = []
    for payload in payloads:
        at = 0
        while at < len(payload):
            where, width, count = struct.unpack_from("<IBH", payload, at)
            at += 7
            for i in range(count):
                found.append((where + i, int.from_bytes(payload[at : at + width], "little")))
                at += width
        assert at == len(payload)
    return found


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 31), st.integers(1, 30), st.integers(0, 32)), min_size=1
    ),
    st.integers(11, 200),
)
def test_runs_are_the_writes_in_order(runs, room):
    addresses = np.concatenate([np.arange(a, a + n) for a, n, _ in runs]).astype(np.uint32)
    data = np.concatenate([(1 << bits) - 1 - np.arange(n) % (1 << bits) for _, n, bits in runs])
    data = data.astype(np.uint32)
    payloads = list(write_runs(addresses, data, room))
    assert max(len(p) for p, _ in payloads) <= room
    assert execute(p for p, _ in payloads) == list(
        zip(addresses.tolist(), data.tolist(), strict=True)
    )
    assert sum(count for _, count in payloads) == len(data)


@given(
    st.lists(st.tuples(st.integers(0, 1 << 31), st.integers(1, 90)), min_size=1),
    st.integers(6, 40),
    st.integers(1, 200),
)
def test_checks_are_all_words_in_order(runs, room, most):
    addresses = np.concatenate([np.arange(a, a + n) for a, n in runs]).astype(np.uint32)
    found = []
    for payload, count in check_runs(addresses, room, most):
        assert len(payload) <= room
        parts = list(struct.iter_unpack("<IH", payload))
        assert count == sum(n for _, n in parts) <= most
        found += [where + i for where, n in parts for i in range(n)]
    assert found == addresses.tolist()


def test_a_run_ends_with_its_lane():
    last = address(Space.WEIGHT, (1 << 22) - 1, 0)
    ((payload, _),) = write_runs(words(last, last + 1), words(1, 2), 99)
    assert execute([payload]) == [(last, 1), (last + 1, 2)]
    assert len(payload) == 2 * (7 + 1)


def test_words_take_as_few_bytes_as_they_need():
    addresses = np.arange(100, dtype=np.uint32)
    for value, width in ((0, 1), (255, 1), (256, 2), (0xFFFF, 2), (0x10000, 3), (1 << 31, 4)):
        ((payload, _),) = write_runs(addresses, np.full(100, value, np.uint32), 999)
        assert len(payload) == 7 + 100 * width


class TestFrames:
    @settings(deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.sampled_from([0.0, 0.001, 0.02, 0.3, 0.7, 1.0]),
        st.sampled_from([1, 2, 256]),
    )
    def test_lossless(self, seed, density, colours):
        rng = np.random.default_rng(seed)
        shape = tuple(rng.integers(1, 90, 2).tolist())
        before = rng.integers(0, 256, shape).astype(np.uint8)
        changed = rng.random(shape) < density
        frame = np.where(changed, rng.integers(0, colours, shape), before).astype(np.uint8)
        tokens = encode_frame(frame, before)
        code = b"".join(tokens)
        np.testing.assert_array_equal(decode_frame(code, shape, before), frame)
        raw = encode_frame(frame, None)
        np.testing.assert_array_equal(decode_frame(b"".join(raw), shape, None), frame)
        longest = frame.size + -(-frame.size // MOST)
        assert len(code) <= sum(map(len, raw)) <= longest
        parts = split_frame(tokens, 130)
        assert b"".join(parts) == code
        assert max(map(len, parts)) <= 130

    def test_nothing_moved(self):
        frame = np.zeros((84, 84), np.uint8)
        assert encode_frame(frame, frame) == [b"\x7f", b"\x53"]

    @pytest.mark.parametrize(
        ("code", "why"),
        [
            (b"\x81\x01", "reaches too far"),
            (b"\x87" + bytes(8) + b"\x00", "reaches too far"),
            (b"\xc8\x00", "reaches too far"),
            (b"\xc7", "reaches too far"),
            (b"\x42", "reaches too far"),
            (b"\x40", "ends after 4 of 8"),
            (b"", "ends after 0 of 8"),
        ],
    )
    def test_other_codes_are_refused(self, code, why):
        with pytest.raises(ValueError, match=why):
            decode_frame(code, (2, 4), np.zeros((2, 4), np.uint8))
        with pytest.raises(ValueError, match=r"no frame before|reaches|ends"):
            decode_frame(code, (2, 4), None)


class TestHello:
    CONFIG = BuildConfig.for_lanes(3)

    def reply(self, **changes):
        found = dict.fromkeys(range(LINK_WORDS), 0) | link_words(self.CONFIG, "ulx3s")
        found |= {LinkWord.CLOCK: 80_000_000, LinkWord.BOOT: 2, LinkWord.LOST: 9, LinkWord.TAG: 7}
        found |= {LinkWord[name]: value for name, value in changes.items()}
        return [found[i] for i in range(LINK_WORDS)]

    def test_everything_is_told(self):
        hello = Hello.from_words(self.reply())
        assert hello.config == self.CONFIG
        assert (hello.name, hello.clock, hello.boot) == ("ulx3s", 80_000_000, 2)
        assert hello.counters["lost"] == 9
        assert hello.tag == b"\7" + bytes(15)

    def test_another_version_is_refused(self):
        with pytest.raises(UserError, match="speaks version 1 of the link, this program 2"):
            Hello.from_words(self.reply(PROTOCOL=1))
        with pytest.raises(UserError, match="in 5 words, this program expects"):
            Hello.from_words(self.reply()[:5])
        with pytest.raises(UserError, match="is build 00000001, which is none of this program's"):
            Hello.from_words(self.reply(BUILD=1))

    def test_a_long_name_is_refused(self):
        with pytest.raises(UserError, match="give up to 16 characters"):
            link_words(self.CONFIG, "a" * 17)
