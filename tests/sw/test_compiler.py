"""The compiler: images checked against what the gateware does with them, by an own walk."""

import numpy as np
import pytest

from reticent.agent import SHIPPED, load_agent
from reticent.balance import assign, coarser, lane_loads, measure_traffic
from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.cycles import CycleModel
from reticent.errors import UserError
from reticent.fold import FOLDS, axes, choose_folds, fold_map, folded_weights
from reticent.golden import Golden
from reticent.image import Image
from reticent.layout import Register, Space, row_fields, unpack
from reticent.memory import memory_uses
from reticent.network import InputSpec
from reticent.presets import find_preset
from reticent.quantise import QuantisedLayer, QuantisedNetwork
from reticent.random_networks import Limits, random_frames, random_network

SMALL = Limits(input_size=10, layers=3, map_size=8, channels=10, weights=3000, kernel=5, stride=3)
ROOMY = BuildConfig(
    lanes=4,
    weight_depth=1 << 15,
    pointer_depth=1 << 15,
    state_depth_even=1 << 12,
    state_depth_odd=1 << 12,
    channel_depth=256,
    relative_bits=14,
)


def layer(weight, in_shape, out_shape, stride=(1, 1), padding=(0, 0), **options):
    """A quantised layer from integers; `weight` is (out, in, ky, kx)."""
    weight = np.array(weight, np.int8)
    out = len(weight)
    choices = {
        "bias": np.arange(1, out + 1),
        "multiplier": np.arange(10, 10 + out),
        "shift": 3,
        "name": "layer",
        "signed": False,
        "threshold": 0,
        "scale": 1.0,
        "dense_multiplications": 1,
    }
    return QuantisedLayer(
        weight=weight,
        in_shape=in_shape,
        out_shape=out_shape,
        stride=stride,
        padding=padding,
        **choices | options,
    )


def network(*layers, height=1, width=1, stack=1, **spec):
    return QuantisedNetwork(
        input=InputSpec(height=height, width=width, stack=stack, **spec),
        input_threshold=2,
        layers=tuple(layers),
    )


def rows(image, space, lane=None):
    """A memory's rows as dictionaries, read from the image's words bit by bit."""
    words = image.memories[space] if lane is None else image.memories[space][lane]
    found = []
    for row in words.tolist():
        value = sum(word << 32 * i for i, word in enumerate(row))
        fields = {}
        for name, bits, signed in row_fields(image.config, space):
            fields[name] = value & ((1 << bits) - 1)
            if signed and fields[name] >> (bits - 1):
                fields[name] -= 1 << bits
            value >>= bits
        assert value == 0
        found.append(fields)
    return found


class Walk:
    """What the gateware does with an event, from the image's memories alone."""

    def __init__(self, image):
        lanes = range(image.config.lanes)
        self.image = image
        self.layers = rows(image, Space.LAYER)
        self.rows, self.columns = rows(image, Space.ROW), rows(image, Space.COLUMN)
        self.pointers = [[r["start"] for r in rows(image, Space.POINTER, i)] for i in lanes]
        self.weights = [rows(image, Space.WEIGHT, i) for i in lanes]

    def event(self, i, slot, y, x):
        """Yield (lane, position in its weight memory, state row) of each product, and check marks.

        The masks are the hardware's widths.
        """
        c, table = self.image.config, self.layers[i]
        lanes = range(c.lanes)
        if table["local"]:
            first = table["pointer_base"] + slot // c.lanes
            ranges = [(first, first + 1)]
            base = table["state_base"] + table["channels"] - 1
            lanes = [slot % c.lanes]
        else:
            row = self.rows[table["row_base"] + y]
            column = self.columns[table["column_base"] + x]
            if row["count"] == 0 or column["count"] == 0:
                return
            first = table["pointer_base"] + (slot & ((1 << c.slot_bits) - 1)) * table["taps"]
            first += row["before"] + row["taps"] * column["before"]
            first += row["first"] * column["taps"] + column["first"]
            ranges = [
                (first + n * column["taps"], first + n * column["taps"] + column["count"])
                for n in range(row["count"])
            ]
            base = (row["base"] + column["base"]) & ((1 << c.base_bits) - 1)
            assert row["start"] + row["count"] <= table["rows"]
            assert column["start"] + column["count"] <= table["columns"]
        for begin, end in ranges:
            for lane in lanes:
                for k in range(self.pointers[lane][begin], self.pointers[lane][end]):
                    state = (base - self.weights[lane][k]["relative"]) % (1 << c.state_address_bits)
                    if not table["local"]:
                        self.check_marked(table, row, column, state)
                    yield lane, k, state

    @staticmethod
    def check_marked(table, row, column, state):
        """The neuron lies in the rectangle of positions that the event marks as touched."""
        y, rest = divmod(state - table["state_base"], table["row_stride"])
        assert row["start"] <= y < row["start"] + row["count"]
        x = rest // table["channels"]
        assert column["start"] <= x < column["start"] + column["count"]

    def input(self, i, channel, y, x):
        """(slot, y, x) of the event that input neuron (channel, y, x) of layer i sends."""
        if i == 0:
            return channel, y, x
        described = self.image.layers[i - 1]
        fy, fx = described.fold
        folded = (channel * fy + y % fy) * fx + x % fx
        return described.slots[folded], y // fy, x // fx

    def neuron(self, i, lane, state):
        """(channel, y, x) of the neuron in a lane's state row, by the image's map of layer i."""
        described = self.image.layers[i]
        channel, y, x = self.folded_neuron(i, lane, state)
        fy, fx = described.fold
        channel, qy, qx = np.unravel_index(channel, (described.shape[0], fy, fx))
        found = int(channel), y * fy + int(qy), x * fx + int(qx)
        assert all(a < b for a, b in zip(found, described.shape, strict=True))
        return found

    def folded_neuron(self, i, lane, state):
        """The same on the folded map."""
        described = self.image.layers[i]
        y, rest = divmod(state - self.layers[i]["state_base"], self.layers[i]["row_stride"])
        x, k = divmod(rest, self.layers[i]["channels"])
        if described.local:
            return k, y, x
        return described.slots.index(k * self.image.config.lanes + lane), y, x


def check_image(quantised, image):
    """Walk over one event of every input neuron: it must meet exactly the network's weights."""
    walk = Walk(image)
    for i, described in enumerate(quantised.layers):
        inputs, height, width = described.in_shape
        out, out_height, out_width = described.out_shape
        (sy, sx), (py, px) = described.stride, described.padding
        _, _, ky, kx = described.weight.shape
        for channel in range(inputs):
            for y in range(height):
                for x in range(width):
                    met = np.zeros((out, out_height, out_width), np.int64)
                    for lane, k, state in walk.event(i, *walk.input(i, channel, y, x)):
                        neuron = walk.neuron(i, lane, state)
                        assert met[neuron] == 0, "one weight for each pair of neurons"
                        met[neuron] = walk.weights[lane][k]["weight"]
                    expected = np.zeros_like(met)
                    for oy in range(out_height):
                        for ox in range(out_width):
                            tap_y, tap_x = y + py - oy * sy, x + px - ox * sx
                            if 0 <= tap_y < ky and 0 <= tap_x < kx:
                                expected[:, oy, ox] = described.weight[:, channel, tap_y, tap_x]
                    np.testing.assert_array_equal(met, expected, f"layer {i} {channel, y, x}")
    # Every weight that is not zero lies in the memories once for each folded tap that has it; what
    # follows is padding.
    total = sum(pointers[-1] for pointers in walk.pointers)
    assert max(pointers[-1] for pointers in walk.pointers) == image.used["weights of a lane"]
    folds = [(1, 1), *(described.fold for described in image.layers)]
    assert total == sum(
        np.count_nonzero(folded_weights(described, *axes(described, folds[i], folds[i + 1])))
        for i, described in enumerate(quantised.layers)
    )
    if all(fold == (1, 1) for fold in folds) and all(
        min(described.out_shape[1:]) > 1 for described in quantised.layers[:-1]
    ):
        assert total <= quantised.stored_weights
    check_channels(quantised, image)


def check_channels(quantised, image):
    """Biases and multipliers are where the neurons are; the others never fire."""
    lanes = image.config.lanes
    for i, described in enumerate(quantised.layers):
        table = rows(image, Space.LAYER)[i]
        bias = np.zeros((lanes, table["channels"]), np.int64)
        multiplier = np.zeros_like(bias)
        for lane in range(lanes):
            mine = rows(image, Space.CHANNEL, lane)[table["channel_base"] :][: table["channels"]]
            bias[lane] = [row["bias"] for row in mine]
            multiplier[lane] = [row["multiplier"] for row in mine]
        if image.layers[i].local:
            places = np.zeros(table["channels"], np.int64)
            places[: len(described.bias)] = described.bias
            np.testing.assert_array_equal(bias.sum(axis=0), places)
            continue
        k, lane = np.divmod(image.layers[i].slots, lanes)
        classes = int(np.prod(image.layers[i].fold))
        np.testing.assert_array_equal(bias[lane, k], described.bias.repeat(classes))
        np.testing.assert_array_equal(multiplier[lane, k], described.multiplier.repeat(classes))
        bias[lane, k] = multiplier[lane, k] = 0
        assert not bias.any()
        assert not multiplier.any()


def check_steps(quantised, image, frames):
    """Play frames by the image's memories alone: events, multiplications and accumulators."""
    walk, config, golden = Walk(image), image.config, Golden(quantised)
    tables = walk.layers
    acc = np.zeros((2, config.lanes, config.state_depth), np.int64)
    parameters = [rows(image, Space.CHANNEL, lane) for lane in range(config.lanes)]
    for i, table in enumerate(tables):
        for lane in range(config.lanes):
            own = [
                r["bias"] for r in parameters[lane][table["channel_base"] :][: table["channels"]]
            ]
            size = table["rows"] * table["columns"]
            begin = table["state_base"]
            acc[i % 2, lane, begin : begin + size * len(own)] = np.tile(own, size)
    for frame in frames:
        expected = golden.step(frame)
        for i, described in enumerate(quantised.layers):
            products = 0
            events = golden.delta[i].reshape(described.in_shape)
            for place in np.argwhere(events).tolist():
                for lane, k, row in walk.event(i, *walk.input(i, *place)):
                    acc[i % 2, lane, row] += walk.weights[lane][k]["weight"] * events[tuple(place)]
                    products += 1
            assert products == expected.significant[i]
            check_accumulators(image, i, acc, golden.acc[i], tables[i], parameters)


def check_accumulators(image, i, acc, expected, table, parameters):
    """Neurons of the map as they must be; those that it does not have are told to be silent."""
    described, lanes = image.layers[i], image.config.lanes
    folded = fold_map(expected, described.fold)
    there = fold_map(np.ones(expected.shape, bool), described.fold)
    _, height, width = folded.shape
    for channel, y, x in np.ndindex(folded.shape):
        k, lane = divmod(described.slots[channel], lanes)
        row = table["state_base"] + (y * width + x) * table["channels"] + k
        if described.local:
            row = table["state_base"] + channel
            assert acc[i % 2, :, row].sum() == expected[channel, y, x]
            continue
        if there[channel, y, x]:
            assert acc[i % 2, lane, row] == folded[channel, y, x]
        own = parameters[lane][table["channel_base"] + k]
        missing = (y == height - 1 and own["short_rows"]) or (
            x == width - 1 and own["short_columns"]
        )
        assert bool(missing) == (not there[channel, y, x])


def test_dense_layer_by_hand():
    outputs = layer([[[[1, 0]]], [[[2, -3]]]], (1, 1, 2), (2, 1, 1), stride=(1, 2))
    image = compile_network(network(outputs, width=2), BuildConfig(lanes=2))
    assert [r["start"] for r in rows(image, Space.POINTER, 0)] == [0, 1, 1]
    assert [r["start"] for r in rows(image, Space.POINTER, 1)] == [0, 1, 2]
    # The lane with fewer weights is filled up with zeros.
    assert [(r["weight"], r["relative"]) for r in rows(image, Space.WEIGHT, 0)] == [(1, 0), (0, 0)]
    assert [(r["weight"], r["relative"]) for r in rows(image, Space.WEIGHT, 1)] == [(2, 0), (-3, 0)]
    channel = {"bias": 2, "multiplier": 11, "short_rows": 0, "short_columns": 0}
    assert rows(image, Space.CHANNEL, 1) == [channel]
    column = {"taps": 1, "first": 0, "count": 1, "base": 0, "start": 0}
    assert rows(image, Space.COLUMN) == [{"before": 0, **column}, {"before": 1, **column}]
    assert image.registers[Register.OUTPUTS] == 2
    assert image.registers[Register.WIDTH] == 2
    assert image.thresholds == [2]
    assert image.frame_shape == (1, 2, 1)


def test_convolution_by_hand():
    conv = layer([[[[5, 6]]], [[[7, 0]]]], (1, 1, 3), (2, 1, 2), threshold=4)
    outputs = layer([[[[1, 2]], [[3, 4]]]], (2, 1, 2), (1, 1, 1), stride=(1, 2), shift=1)
    image = compile_network(network(conv, outputs, width=3), BuildConfig(lanes=1), fold=(1, 1))
    first, second = rows(image, Space.LAYER)
    assert first == {
        "pointer_base": 0,
        "taps": 2,
        "row_base": 0,
        "column_base": 0,
        "rows": 1,
        "columns": 2,
        "channels": 2,
        "row_stride": 4,
        "state_base": 0,
        "channel_base": 0,
        "shift": 3,
        "signed": 0,
        "local": 0,
    }
    assert (second["pointer_base"], second["row_base"], second["column_base"]) == (2, 1, 3)
    assert (second["taps"], second["channel_base"], second["shift"]) == (2, 2, 1)
    # Neurons lie position by position, two channels each; addresses count down from the last.
    assert rows(image, Space.ROW)[0] == {
        "before": 0,
        "taps": 1,
        "first": 0,
        "count": 1,
        "base": 1,
        "start": 0,
    }
    assert [
        (r["first"], r["count"], r["base"], r["start"]) for r in rows(image, Space.COLUMN)[:3]
    ] == [(0, 1, 0, 0), (0, 2, 2, 0), (1, 1, 4, 1)]
    assert [r["start"] for r in rows(image, Space.POINTER, 0)] == [0, 2, 3, 4, 5, 6, 7]
    weights = [(r["weight"], r["relative"]) for r in rows(image, Space.WEIGHT, 0)]
    assert weights[:3] == [(5, 1), (7, 0), (6, 3)]
    assert [w for w, _ in weights[3:]] == [1, 2, 3, 4]
    assert image.thresholds == [2, 4]
    check_image(network(conv, outputs, width=3), image)


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("lanes", [1, 3, 16])
@pytest.mark.parametrize("seed", range(6))
def test_every_weight_is_met_where_it_belongs(seed, lanes, fold):
    quantised = random_network(seed, SMALL)
    trace = random_frames(quantised, seed, 4) if seed % 2 else []
    image = compile_network(quantised, ROOMY.replace(lanes=lanes), trace, fold=fold)
    assert [described.fold for described in image.layers] == choose_folds(quantised, fold)
    check_image(quantised, image)


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("seed", range(8))
def test_memories_compute_what_the_golden_model_does(seed, fold):
    quantised = random_network(200 + seed, SMALL)
    frames = random_frames(quantised, seed, 4)
    image = compile_network(quantised, ROOMY.replace(lanes=2 + seed % 3), frames, fold=fold)
    check_steps(quantised, image, frames)


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("seed", range(8))
def test_build_without_a_spare_row(seed, lanes):
    quantised = random_network(100 + seed, SMALL)
    fold = FOLDS[seed % len(FOLDS)]
    roomy = ROOMY.replace(lanes=lanes)
    needed: dict[str, int] = {}
    for use in memory_uses(roomy, compile_network(quantised, roomy, fold=fold).used):
        if use.used is not None:
            needed[use.choice] = max(2, use.used, needed.get(use.choice, 0))
    # Slots are as wide as the channels of a lane need, and the input's channels have some too.
    inputs = quantised.layers[0].in_shape[0]
    needed["channel_depth"] = max(needed["channel_depth"], -(-inputs // lanes))
    check_image(quantised, compile_network(quantised, roomy.replace(**needed), fold=fold))


def test_the_coarsest_fold_that_balances_is_taken():
    """One busy channel on two lanes: folded, both work. Two equal ones: nothing to gain."""
    config = BuildConfig(lanes=2)
    frames = [np.full((1, 8), n, np.uint8) for n in range(4)]

    def folds(channels):
        conv = layer(np.ones((channels, 1, 1, 1)), (1, 1, 8), (channels, 1, 8))
        outputs = layer(np.ones((2, channels, 1, 8)), (channels, 1, 8), (2, 1, 1), stride=(1, 8))
        quantised = network(conv, outputs, width=8)
        image = compile_network(quantised, config, frames)
        check_steps(quantised, image, frames)
        return [described.fold for described in image.layers]

    assert folds(1) == [(1, 2), (1, 1)]
    assert folds(2) == [(1, 1), (1, 1)]


def test_weights_balance_where_loads_do_not_fit():
    agent = load_agent(SHIPPED / "robotank-sparse10.npz")
    network, frames = agent.quantised(), list(agent.calibration[:12])
    config = find_preset("ulx3s")[1].config.replace(channel_depth=64)
    roomy = compile_network(network, config.replace(weight_depth=8192), frames)
    assert roomy.used["weights of a lane"] > config.weight_depth
    fits = compile_network(network, config, frames)
    assert fits.to_bytes() == compile_network(network, config).to_bytes()


def test_a_fold_that_does_not_fit_is_not_taken():
    """Folding takes more pointers here: where they do not fit, the map stays as it is."""
    conv = layer(np.ones((3, 8, 1, 3)), (8, 1, 4), (3, 1, 2))
    outputs = layer(np.ones((2, 3, 1, 2)), (3, 1, 2), (2, 1, 1), stride=(1, 2))
    quantised = network(conv, outputs, width=4, channels=8)
    frames = [np.full((1, 4, 8), 5 * n, np.uint8) for n in range(4)]
    config = BuildConfig(lanes=2)
    folded, plain = (
        compile_network(quantised, config, frames, fold=fold) for fold in ((1, 2), (1, 1))
    )
    assert compile_network(quantised, config, frames).layers == folded.layers
    used = plain.used["pointers of a lane"]
    assert used < folded.used["pointers of a lane"]
    tight = config.replace(pointer_depth=used)
    assert compile_network(quantised, tight, frames).layers == plain.layers
    with pytest.raises(UserError, match="raise pointer_depth to"):
        compile_network(quantised, tight, frames, fold=(1, 2))
    # When none fits, the least demanding one is the remedy.
    with pytest.raises(UserError, match=f"raise pointer_depth to {used}\n"):
        compile_network(quantised, config.replace(pointer_depth=used - 1), frames)


def test_same_input_gives_the_same_bytes():
    quantised = random_network(3)
    trace = random_frames(quantised, 0, 6)
    first, second = (compile_network(quantised, ROOMY, trace).to_bytes() for _ in range(2))
    assert first == second
    assert Image.from_bytes(first).network == quantised.digest


TIGHT = {
    "weight_depth": 3,
    "pointer_depth": 9,
    "state_depth_even": 3,
    "state_depth_odd": 2,
    "channel_depth": 2,
    "frame_depth": 11,
    "stack": 1,
    "layers": 2,
    "map_depth": 5,
    "map_rows": 1,
    "map_columns": 2,
}


@pytest.mark.parametrize("choice", TIGHT)
def test_memory_that_is_too_small(choice):
    conv = layer(np.ones((3, 2, 2, 2)), (2, 3, 4), (3, 2, 3))
    dense = layer(np.ones((5, 3, 2, 3)), (3, 2, 3), (5, 1, 1), stride=(2, 3))
    outputs = layer(np.ones((2, 5, 1, 1)), (5, 1, 1), (2, 1, 1))
    quantised = network(conv, dense, outputs, height=3, width=4, stack=2)
    roomy = BuildConfig(lanes=2)
    compile_network(quantised, roomy, fold=(1, 1))
    with pytest.raises(UserError, match=f"does not fit this build: raise {choice} to") as caught:
        compile_network(quantised, roomy.replace(**{choice: TIGHT[choice]}), fold=(1, 1))
    first, *table = str(caught.value).splitlines()
    assert table[0].split()[:2] == ["memory", "rows"]
    marked = [line.split() for line in table if line.endswith("<-")]
    assert marked
    assert all(str(TIGHT[choice]) in line for line in marked)
    # The remedy is enough, and no more than needed.
    needed = int(first.split()[-1])
    compile_network(quantised, roomy.replace(**{choice: needed}), fold=(1, 1))
    with pytest.raises(UserError, match=f"raise {choice} to {needed}\n"):
        compile_network(quantised, roomy.replace(**{choice: needed - 1}), fold=(1, 1))


def test_all_memories_that_are_too_small_are_named_at_once():
    outputs = layer(np.ones((2, 1, 3, 4)), (1, 3, 4), (2, 1, 1), stride=(3, 4))
    with pytest.raises(UserError, match="raise weight_depth to 24, pointer_depth to 13, frame_"):
        compile_network(
            network(outputs, height=3, width=4),
            BuildConfig(lanes=1, weight_depth=2, pointer_depth=2, frame_depth=2),
        )


def one(weight=1, **options):
    """One weight from one pixel to one output."""
    return network(layer([[[[weight]]]], (1, 1, 1), (1, 1, 1), **options))


def test_accumulator_at_its_bound():
    config = BuildConfig(lanes=1, accumulator_bits=16)
    bias = (1 << 15) - 1 - 127 * 255
    compile_network(one(127, bias=np.array([bias])), config)
    with pytest.raises(UserError, match=r"may reach 32768, which needs 17 bits; .* has 16"):
        compile_network(one(127, bias=np.array([bias + 1])), config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiplier": np.array([256])}, "multiplier 256 needs more than this build's 8 bits"),
        ({"shift": 0}, r"shift 0 is outside 1\.\.31"),
        ({"shift": 32}, r"shift 32 is outside 1\.\.31"),
    ],
)
def test_numbers_that_are_too_wide(options, message):
    with pytest.raises(UserError, match=message):
        compile_network(one(**options), BuildConfig(lanes=1, multiplier_bits=8))


def test_relative_address_that_is_too_wide():
    conv = layer(np.ones((4, 1, 2, 2)), (1, 5, 5), (4, 4, 4))
    outputs = layer(np.ones((1, 4, 4, 4)), (4, 4, 4), (1, 1, 1), stride=(4, 4))
    quantised = network(conv, outputs, height=5, width=5)
    # Tap (1, 1) of the kernel lies 5 positions of 4 neurons back, then 3 neurons: 0..23.
    compile_network(quantised, BuildConfig(lanes=1, relative_bits=5))
    with pytest.raises(UserError, match="relative address needs 5 bits and has 4: raise rel"):
        compile_network(quantised, BuildConfig(lanes=1, relative_bits=4))
    compile_network(quantised, BuildConfig(lanes=2, relative_bits=4))


def test_kernel_with_too_many_taps():
    quantised = network(layer(np.ones((1, 1, 1, 16)), (1, 1, 16), (1, 1, 1)), width=16)
    with pytest.raises(UserError, match="kernel 16 with stride 1 has more than 15 taps a phase"):
        compile_network(quantised, BuildConfig(lanes=1))


def test_more_input_channels_than_the_device_distinguishes():
    def deep(channels):
        weight = np.ones((1, channels, 1, 1))
        return network(layer(weight, (channels, 1, 1), (1, 1, 1)), channels=channels)

    config = BuildConfig(lanes=1, channel_depth=8)
    compile_network(deep(8), config)
    with pytest.raises(UserError, match=r"has 9 input channels .* 8: raise channel_depth to 9"):
        compile_network(deep(9), config)
    with pytest.raises(UserError, match="a frame has 256 channels: give up to 255"):
        compile_network(deep(256), BuildConfig())


def worst(loads, groups):
    """Sum over frames of the fullest lane's load: what a layer costs."""
    return sum(max(frame[group].sum() for group in groups) for frame in loads)


@pytest.mark.parametrize(("channels", "lanes"), [(32, 16), (64, 16), (33, 8), (7, 3), (100, 32)])
def test_balance_beats_the_naive_assignment(channels, lanes):
    rng = np.random.default_rng(channels)
    # A few channels carry most of the load, and which ones changes from frame to frame.
    loads = rng.integers(0, 20, (12, channels)) * rng.zipf(1.7, channels).clip(max=60)
    groups = assign(loads, lanes)
    most = -(-channels // lanes)
    assert sorted(channel for group in groups for channel in group) == list(range(channels))
    assert max(map(len, groups)) <= most
    naive = [list(range(lane, channels, lanes)) for lane in range(lanes)]
    assert worst(loads, groups) < worst(loads, naive)
    assert groups == assign(loads, lanes)


@pytest.mark.parametrize("channels", [0, 1, 3])
def test_balance_with_fewer_channels_than_lanes(channels):
    groups = assign(np.ones((2, channels), np.int64), 4)
    assert sorted(map(len, groups)) == [0] * (4 - channels) + [1] * channels


def test_balance_without_load():
    groups = assign(np.zeros((0, 10), np.int64), 4)
    assert max(map(len, groups)) == 3
    assert sorted(channel for group in groups for channel in group) == list(range(10))


def test_balance_counts_what_the_lanes_did_before():
    """A lane that was busy in earlier layers gets the lighter channel."""
    loads = np.array([[10, 4], [10, 4]])
    before = np.array([[7, 0], [7, 0]])
    assert assign(loads, 2, before) == [[1], [0]]
    assert assign(loads, 2, before[:, ::-1]) == [[0], [1]]
    assert lane_loads(loads, [[1], [0]]).tolist() == [[4, 10], [4, 10]]


def test_loads_are_the_multiplications_of_each_channel():
    conv = layer([[[[1, 1]]], [[[0, 2]]]], (1, 1, 3), (2, 1, 2))
    outputs = layer(np.ones((1, 2, 1, 2)), (2, 1, 2), (1, 1, 1), stride=(1, 2))
    frames = [np.array([[p]], np.uint8).reshape(1, 3) for p in ([0, 0, 0], [9, 0, 0], [9, 9, 0])]
    small = network(conv, outputs, width=3)
    loads = measure_traffic(small, frames, [(1, 1), (1, 1)]).loads
    # Frame 1: pixel 0 meets tap 0 at output 0. Frame 2: pixel 1 meets tap 1 and tap 0.
    assert loads[0].tolist() == [[1, 0], [2, 1]]
    # Folded, each output position is a channel: tap 1 of pixel 1 is output 0, tap 0 output 1.
    folded = measure_traffic(small, frames, [(1, 2), (1, 1)]).loads
    assert folded[0].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_loads_of_coarser_folds_are_sums(seed):
    quantised = random_network(seed, SMALL)
    frames = random_frames(quantised, seed, 4)
    finest = choose_folds(quantised, FOLDS[-1])
    measured = measure_traffic(quantised, frames, finest).loads
    for fold in FOLDS:
        folds = choose_folds(quantised, fold)
        for load, fine, coarse, expected in zip(
            measured, finest, folds, measure_traffic(quantised, frames, folds).loads, strict=True
        ):
            np.testing.assert_array_equal(coarser(load, fine, coarse), expected)
    # All channels together: what the golden model counts.
    golden = Golden(quantised)
    counted = [golden.step(frame).significant for frame in frames][1:]
    np.testing.assert_array_equal([load.sum(axis=1) for load in measured], np.transpose(counted))


@pytest.mark.parametrize("seed", [2, 5, 7])  # the finest is best, the middle one, the coarsest
def test_maps_are_folded_as_takes_the_fewest_cycles(seed):
    quantised = random_network(seed, SMALL)
    frames = random_frames(quantised, seed, 6)
    golden = Golden(quantised)
    fired = [golden.step(frame) and golden.fired for frame in frames]

    def cycles(image):
        model = CycleModel(image)
        return sum(
            model.step(frame, events).total * (t > 0)
            for t, (frame, events) in enumerate(zip(frames, fired, strict=True))
        )

    taken = [cycles(compile_network(quantised, ROOMY, frames, fold=fold)) for fold in FOLDS]
    assert len(set(taken)) > 1
    assert cycles(compile_network(quantised, ROOMY, frames)) == min(taken)


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("seed", range(4))
def test_neurons_examined_together_lie_in_different_banks(seed, fold):
    """A lane's neurons of one position begin in the first bank, and so do their channels."""
    quantised = random_network(seed, SMALL)
    build = ROOMY.replace(requantisers=2)
    image = compile_network(quantised, build, fold=fold)
    check_image(quantised, image)
    fields = unpack(build, Space.LAYER, image.memories[Space.LAYER])
    for name in ("channels", "state_base", "channel_base", "row_stride"):
        assert not (fields[name] % 2).any(), name
