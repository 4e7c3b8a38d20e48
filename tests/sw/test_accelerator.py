"""The driver on a device made of a dictionary."""

import numpy as np
import pytest

from reticent.accelerator import Accelerator
from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.errors import UserError
from reticent.fold import FOLDS, fold_map
from reticent.golden import Golden
from reticent.layout import (
    DEVICE_ID,
    DEVICE_VERSION,
    LOST_CAUSES,
    Register,
    Space,
    address,
    word_index_bits,
)
from reticent.random_networks import Limits, random_frames, random_network

NETWORK = random_network(7, Limits(input_size=8, layers=3, channels=8, weights=500))
CONFIG = BuildConfig(lanes=3)
LAYERS = len(NETWORK.layers)
RESTART = int(address(Space.REGISTER, Register.RESTART))


@pytest.fixture(scope="module")
def image():
    return compile_network(NETWORK, CONFIG)


class Device:
    """Remembers every write; `packet` answers a frame."""

    def __init__(self, **registers):
        identity = {
            "ID": DEVICE_ID,
            "VERSION": DEVICE_VERSION,
            "BUILD_HASH": CONFIG.hash,
        } | registers
        self.words = {int(Register[name]): value for name, value in identity.items()}
        self.writes = []
        self.packet = np.zeros(0, np.uint32)
        self.frames = []
        self.closed = False

    def write(self, addresses, data):
        assert addresses.dtype == data.dtype == np.uint32
        self.writes += zip(addresses.tolist(), data.tolist(), strict=True)
        self.words.update(self.writes)

    def read(self, addresses):
        return np.array([self.words.get(int(a), 0) for a in addresses], np.uint32)

    def frame(self, pixels, words):
        self.frames.append(pixels)
        assert len(self.packet) == words
        return self.packet

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        ({"ID": 0}, "device ID 0x00000000 is not 0x5254434e"),
        ({"VERSION": 99}, "the device has version 99, this driver speaks"),
        ({"BUILD_HASH": 0xDEADBEEF}, "the device is build deadbeef: compile the image for this"),
    ],
)
def test_another_device_is_left_alone(image, registers, message):
    device = Device(**registers)
    with pytest.raises(UserError, match=message):
        Accelerator("fake", device, image)
    assert device.writes == []


def test_start_loads_the_image(image):
    device = Device()
    Accelerator("fake", device, image)
    assert device.writes == list(zip(*(w.tolist() for w in image.writes()), strict=True))


def test_reset_and_close(image):
    device = Device()
    accelerator = Accelerator("fake", device, image)
    device.writes.clear()
    accelerator.reset()
    assert device.writes == [(RESTART, 1)]
    accelerator.close()
    assert device.closed


def test_thresholds(image):
    device = Device()
    accelerator = Accelerator("fake", device, image)
    device.writes.clear()
    counts = list(range(250, 250 + LAYERS))
    accelerator.set_thresholds(counts)
    assert device.writes == [(Register.THRESHOLD + i, count) for i, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([0] * (LAYERS + 1), f"{LAYERS + 1} thresholds given: this network has {LAYERS}"),
        ([0] * (LAYERS - 1), "thresholds given"),
        ([*[0] * (LAYERS - 1), 256], "threshold of 256 counts: give 0 to 255"),
        ([*[0] * (LAYERS - 1), -1], "threshold of -1 counts"),
    ],
)
def test_thresholds_that_are_refused(image, counts, message):
    device = Device()
    accelerator = Accelerator("fake", device, image)
    device.writes.clear()
    with pytest.raises(UserError, match=message):
        accelerator.set_thresholds(counts)
    assert device.writes == [], "all or nothing"


def shape():
    return NETWORK.input.frame_shape


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros(shape(), np.float32),
        np.zeros(shape(), np.int8),
        np.zeros((shape()[0] + 1, *shape()[1:]), np.uint8),
        np.zeros((*shape(), 1), np.uint8),
        np.zeros(shape()[0], np.uint8),
        np.uint8(0),
    ],
    ids=lambda frame: f"{frame.dtype} {frame.shape}",
)
def test_frames_that_are_refused(image, frame):
    device = Device()
    accelerator = Accelerator("fake", device, image)
    with pytest.raises(UserError, match="this network watches uint8"):
        accelerator.step(frame)
    assert device.frames == []


def test_result_packet(image):
    device = Device()
    accelerator = Accelerator("fake", device, image)
    outputs = [-5, *range(image.outputs - 1)]
    counts = [[10 * i + 1, 10 * i + 2, 10 * i + 3] for i in range(LAYERS)]
    lost = [100 + i for i in range(len(LOST_CAUSES))]
    packet = [*outputs, *np.ravel(counts), 4_000_000_000, *lost]
    device.packet = np.array(packet, np.int64).astype(np.uint32)
    frame = random_frames(NETWORK, 0, 1)[0]
    result = accelerator.step(frame)
    height, width, channels = shape()
    np.testing.assert_array_equal(device.frames[0], frame.reshape(height, width * channels))
    assert result.outputs.tolist() == outputs
    assert result.events == tuple(c[0] for c in counts)
    assert result.significant == tuple(c[1] for c in counts)
    assert result.cycles.layers == tuple(c[2] for c in counts)
    assert result.cycles.total == 4_000_000_000
    assert result.cycles.busy == sum(result.significant)
    assert result.cycles.lost == dict(zip(LOST_CAUSES, lost, strict=True))
    assert result.action == int(np.argmax(outputs))


@pytest.mark.parametrize("fold", FOLDS)
def test_accumulators_are_found_where_the_image_says(fold):
    image = compile_network(NETWORK, CONFIG, fold=fold)
    device = Device()
    accelerator = Accelerator("fake", device, image)
    golden = Golden(NETWORK)
    golden.step(random_frames(NETWORK, 0, 1)[0])
    for i, (layer, acc) in enumerate(zip(image.layers, golden.acc, strict=True)):
        space = Space.STATE_ODD if i % 2 else Space.STATE_EVEN
        folded = fold_map(acc, layer.fold)
        positions = folded.shape[1] * folded.shape[2]

        def put(position, k, lane, value, layer=layer, space=space):
            row = layer.state_base + position * layer.channels + k
            index = row << word_index_bits(CONFIG, space)
            device.words[int(address(space, index, lane))] = value % (1 << 32)

        for channel, slot in enumerate(layer.slots):
            for position in range(positions):
                value = int(folded[channel].reshape(-1)[position])
                k, lane = divmod(slot, CONFIG.lanes)
                if layer.local:  # the sum over the lanes counts, however it is spread
                    k, lane = channel, position % CONFIG.lanes
                    put(position, k, (lane + 1) % CONFIG.lanes, 77)
                    value -= 77
                put(position, k, lane, value)
    assert any(layer.fold == fold for layer in image.layers)
    for found, expected in zip(accelerator.accumulators(), golden.acc, strict=True):
        np.testing.assert_array_equal(found, expected)
