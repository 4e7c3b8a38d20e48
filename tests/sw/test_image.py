"""Image files: what is written comes back, and anything else is refused with one line."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from reticent import image as image_module
from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.image import DIGEST, MAGIC, Image, Origin
from reticent.layout import COPY_SHIFT, LOADED, SPACE_SHIFT, Register, Space
from reticent.random_networks import Limits, random_network

NETWORK = random_network(1, Limits(input_size=8, layers=3, channels=8, weights=500))
ORIGIN = Origin(agent="test (0123)", game="pong", actions=("NOOP", "FIRE"), threshold=(0.01, 0.02))


@pytest.fixture(scope="module")
def image():
    compiled = compile_network(NETWORK, BuildConfig.for_lanes(3))
    return replace(compiled, origin=ORIGIN)


def seal(body):
    """A file with a right checksum."""
    return body + hashlib.sha256(body).digest()


def header_of(blob):
    start = len(MAGIC) + 4
    length = int.from_bytes(blob[len(MAGIC) : start], "little")
    return json.loads(blob[start : start + length]), blob[start + length : -DIGEST]


def with_header(blob, **changes):
    """The same file with another header; None leaves a key out."""
    header, data = header_of(blob)
    header |= changes
    text = json.dumps({k: v for k, v in header.items() if v is not None}).encode()
    return seal(MAGIC + len(text).to_bytes(4, "little") + text + data)


def test_contents_are_what_the_writes_leave(image):
    held = {}
    for where, word in zip(*(part.tolist() for part in image.writes()), strict=True):
        held[where] = word
    addresses, data = (part.tolist() for part in image.contents())
    assert len(set(addresses)) == len(addresses)
    for where, word in zip(addresses, data, strict=True):
        assert held.pop(where, 0) == word
    assert all(where >> SPACE_SHIFT == Space.REGISTER for where in held)


def test_every_copy_of_a_memory_is_read(image):
    three = replace(image, config=image.config.replace(streams=3))
    addresses, data = three.contents()
    copied = {Space.ROW, Space.COLUMN, Space.POINTER}
    for space in LOADED:
        own = addresses[addresses >> SPACE_SHIFT == space]
        indices = own & (1 << COPY_SHIFT) - 1
        copies = own >> COPY_SHIFT & 7
        assert set(copies.tolist()) == ({0, 1, 2} if space in copied else {0})
        for copy in set(copies.tolist()):
            assert set(indices[copies == copy].tolist()) == set(indices.tolist())
    assert len(addresses) == len(data)


def test_round_trip(image, tmp_path):
    path = tmp_path / "x.image"
    image.save(path)
    loaded = Image.load(path)
    assert list(tmp_path.iterdir()) == [path]
    for name in ("config", "registers", "layers", "frame_shape", "used", "network", "origin"):
        assert getattr(loaded, name) == getattr(image, name), name
    assert list(loaded.memories) == list(image.memories)
    for space, rows in image.memories.items():
        np.testing.assert_array_equal(loaded.memories[space], rows)
    for ours, theirs in zip(loaded.writes(), image.writes(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert loaded.to_bytes() == image.to_bytes() == path.read_bytes()


def test_image_that_was_not_compiled_from_an_agent(image):
    assert Image.from_bytes(replace(image, origin=None).to_bytes()).origin is None


@pytest.mark.parametrize("length", [0, 1, 7, 8, 12, 43, 44, 200, -1])
def test_truncated(image, length):
    with pytest.raises(UserError, match=r"not an image file|damaged"):
        Image.from_bytes(image.to_bytes()[:length])


def test_any_flipped_byte_is_noticed(image):
    blob = image.to_bytes()
    rng = np.random.default_rng(0)
    for place in [0, 7, 8, 11, 12, len(blob) - 1, *rng.integers(0, len(blob), 40)]:
        damaged = bytearray(blob)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(UserError, match=r"not an image file|its checksum is wrong"):
            Image.from_bytes(bytes(damaged))


def test_more_than_the_file(image):
    with pytest.raises(UserError, match="checksum"):
        Image.from_bytes(image.to_bytes() + b"\0")
    with pytest.raises(UserError, match="4 bytes too many"):
        Image.from_bytes(seal(image.to_bytes()[:-DIGEST] + bytes(4)))


def test_other_version(image):
    with pytest.raises(UserError, match="version 2, this program reads 1: compile it again"):
        Image.from_bytes(with_header(image.to_bytes(), version=2))


@pytest.mark.parametrize("length", [1 << 31, (1 << 32) - 1, 0, 5])
def test_header_of_another_length(image, length):
    blob = image.to_bytes()[:-DIGEST]
    start = len(MAGIC) + 4
    with pytest.raises(UserError, match="inconsistent"):
        Image.from_bytes(seal(MAGIC + length.to_bytes(4, "little") + blob[start:]))


@pytest.mark.parametrize("text", [b"[]", b"3", b"{}", b"\xff", b"{", b"[" * 100_000])
def test_header_that_is_none(text):
    with pytest.raises(UserError, match="inconsistent"):
        Image.from_bytes(seal(MAGIC + len(text).to_bytes(4, "little") + text))


MANY = 1 << 60


@pytest.mark.parametrize(
    "shape",
    [[], [3], [-1, 1], [MANY, 1], [MANY, MANY, 1], [4, MANY, 1], ["3", 1], [2.0, 1], [1, 2], 7],
)
@pytest.mark.parametrize("space", ["ROW", "WEIGHT"])
def test_memory_of_another_shape(image, space, shape):
    memories = header_of(image.to_bytes())[0]["memories"]
    with pytest.raises(UserError, match="inconsistent"):
        Image.from_bytes(with_header(image.to_bytes(), memories=memories | {space: shape}))


@pytest.mark.parametrize(
    "changes",
    [
        {"memories": {"HEAP": [1, 1]}},
        {"registers": {"one": 1}},
        {"registers": None},
        {"layers": [{}]},
        {"layers": 3},
        {"frame_shape": None},
        {"used": None},
        {"network": None},
        {"origin": {"agent": "x"}},
        {"origin": "x"},
        {"config": {"lanes": 1}},
        {"config": 1},
        {"version": None},
    ],
    ids=str,
)
def test_header_without_sense(image, changes):
    with pytest.raises(UserError, match=r"compile it again|unknown or missing"):
        Image.from_bytes(with_header(image.to_bytes(), **changes))


def test_load_names_the_file(tmp_path):
    path = tmp_path / "no.image"
    with pytest.raises(UserError, match=r"cannot read image .*no\.image \(No such file.*compile`"):
        Image.load(path)
    path.write_bytes(b"something else entirely, but long enough to hold a checksum")
    with pytest.raises(UserError, match=r"no\.image: not an image file"):
        Image.load(path)
    with pytest.raises(UserError, match="is not a file of up to"):
        Image.load(tmp_path)
    with pytest.raises(UserError, match="is not a file of up to"):
        Image.load("/dev/zero")


def test_too_large_a_file_is_not_read(tmp_path):
    path = tmp_path / "huge.image"
    with path.open("wb") as file:
        file.truncate(image_module.LARGEST + 1)  # sparse
    with pytest.raises(UserError, match="is not a file of up to"):
        Image.load(path)


@pytest.mark.parametrize("where", [".", "missing/x.image", "file/x.image"])
def test_save_where_nothing_can_be_written(image, tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write image"):
        image.save(where)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("at", ["write_bytes", "replace"])
def test_interrupted_save_leaves_the_old_file(image, tmp_path, monkeypatch, at, error):
    path = tmp_path / "x.image"
    path.write_text("the old one")

    def fail(*_):
        raise error

    if at == "replace":
        monkeypatch.setattr(os, "replace", fail)
    else:
        monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        image.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.image"]
    assert path.read_text() == "the old one"


def test_thresholds(image):
    layers = len(image.layers)
    changed = image.with_thresholds(0.0)
    assert changed.thresholds == [0] * layers
    assert image.thresholds == list(NETWORK.thresholds)
    # One count of a pixel is 1/255; the scale of every hidden layer is 1 here.
    assert image.with_thresholds([3 / 255, *[2.5] * (layers - 1)]).thresholds == [
        3,
        *[2] * (layers - 1),
    ]
    with pytest.raises(UserError, match=r"threshold -1\.0 is not allowed"):
        image.with_thresholds(-1)
    with pytest.raises(UserError, match="thresholds given"):
        image.with_thresholds([0.1] * (layers + 1))


def test_writes_load_everything_and_end_with_a_restart(image):
    addresses, data = image.writes()
    assert addresses.dtype == data.dtype == np.uint32
    assert len(set(addresses.tolist())) == len(addresses) == len(data)
    assert int(addresses[-1]) == Register.RESTART
    assert data[-1] == 1
    spaces = addresses >> SPACE_SHIFT
    for space, rows in image.memories.items():
        assert np.count_nonzero(spaces == int(space)) == rows.size
    assert np.count_nonzero(spaces == int(Space.REGISTER)) == len(image.registers) + 1
