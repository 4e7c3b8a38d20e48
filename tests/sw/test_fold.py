"""Folding, against its definition."""

import numpy as np
import pytest

from reticent.fold import FOLDS, Axis, axes, choose_folds, fold_map, folded_weights, unfold_map
from reticent.golden import Golden
from reticent.quantise import QuantisedLayer
from reticent.random_networks import random_frames, random_network


@pytest.mark.parametrize("fold", [*FOLDS, (2, 1), (3, 2)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 6), (2, 5, 7), (5, 1, 3), (2, 3, 1)])
def test_fold_map_by_definition(shape, fold):
    """Channel (c, qy, qx) at (Y, X) is channel c at (fy Y + qy, fx X + qx), or zero."""
    (channels, height, width), (fy, fx) = shape, fold
    values = np.random.default_rng(0).integers(1, 100, shape)
    folded = fold_map(values, fold)
    assert folded.shape == (channels * fy * fx, -(-height // fy), -(-width // fx))
    for (channel, row, column), value in np.ndenumerate(folded):
        c, qy, qx = np.unravel_index(channel, (channels, fy, fx))
        y, x = fy * row + qy, fx * column + qx
        assert value == (values[c, y, x] if y < height and x < width else 0)
    np.testing.assert_array_equal(unfold_map(folded, fold, shape), values)


def test_not_folding_is_the_identity():
    values = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(fold_map(values, (1, 1)), values)


def some_axes(count):
    """(kernel, stride, padding, size, out, before, after) of random layers along one axis."""
    rng = np.random.default_rng(7)
    found = []
    while len(found) < count:
        kernel, stride = int(rng.integers(1, 9)), int(rng.integers(1, 6))
        padding, size = int(rng.integers(0, kernel)), int(rng.integers(1, 14))
        before, after = (int(f) for f in rng.integers(1, 4, 2))
        out = (size + 2 * padding - kernel) // stride + 1
        if out < 1 or (out > 1 and stride * after % before):
            continue
        found.append((kernel, stride, padding, size, out, before, after if out > 1 else 1))
    return found


AXES = some_axes(400)


def test_random_axes_have_every_peculiarity():
    """The tests below are worth nothing without these."""
    assert any(out % after for *_, out, _, after in AXES), "maps that end in a part of a block"
    assert any(size % before for _, _, _, size, _, before, _ in AXES)
    for before in (1, 2, 3):
        for after in (1, 2, 3):
            assert any(a[-2:] == (before, after) for a in AXES)


@pytest.mark.parametrize("parameters", AXES, ids=str)
def test_axis_by_definition(parameters):
    """Class p of folded input Y and class q of folded output O meet by the kernel index that the
    layer has between them, once, and by none else; positions that no map has meet nothing."""
    kernel, stride, padding, size, out, before, after = parameters
    axis = Axis.of(kernel, stride, padding, size, out, before=before, after=after)
    assert axis.out == -(-out // after)
    assert axis.kernel.shape == (before, after, axis.taps)
    for coordinate in range(-(-size // before)):
        expected, found = {}, {}
        for p in range(before):
            y = coordinate * before + p
            for o in range(out):
                index = y + padding - stride * o
                if y < size and 0 <= index < kernel:
                    expected[p, o] = index
        reached = []
        members = axis.groups[axis.group[coordinate]]
        for tap, position in axis.meets(coordinate):
            assert members.start <= tap < members.stop
            assert 0 <= position < axis.out
            reached.append(position)
            for p in range(before):
                if coordinate * before + p >= size:
                    continue  # no event comes from there
                for q in range(after):
                    if axis.kernel[p, q, tap] >= 0:
                        key = p, position * after + q
                        assert key not in found
                        found[key] = axis.kernel[p, q, tap]
        assert found == expected
        assert len(set(reached)) == len(reached)
        if reached:  # neighbours, so that they are one run of marks
            assert max(reached) - min(reached) == len(reached) - 1


@pytest.mark.parametrize("parameters", AXES[:60], ids=str)
def test_rows_of_the_tables(parameters):
    """What an event meets, worked out from the ROW entries as the gateware does."""
    kernel, stride, padding, size, out, before, after = parameters
    axis = Axis.of(kernel, stride, padding, size, out, before=before, after=after)
    step, width = 7, 5
    rows = axis.rows(step, width)
    assert all(len(column) == -(-size // before) for column in rows.values())
    for coordinate in range(-(-size // before)):
        row = {name: int(column[coordinate]) for name, column in rows.items()}
        begin, rest = divmod(row["before"], width)
        assert rest == 0
        taps = range(begin + row["first"], begin + row["first"] + row["count"])
        assert row["first"] + row["count"] <= row["taps"]
        places = [(row["base"] - axis.back[tap] * step) / step for tap in taps]
        expected = axis.meets(coordinate)
        assert list(zip(taps, places, strict=True)) == expected
        if expected:
            assert row["start"] == min(position for _, position in expected)


def test_folds_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="stride 1 folded by 2 to 1"):
        Axis.of(3, 1, 0, 9, 7, before=2, after=1)


def test_a_layer_that_is_not_folded_has_a_tap_for_each_kernel_index():
    axis = Axis.of(8, 4, 0, 84, 20, before=1, after=1)
    assert axis.taps == 8
    assert sorted(axis.kernel.reshape(-1).tolist()) == list(range(8))
    assert [group.stop - group.start for group in axis.groups] == [2] * 4


def test_choose_folds():
    """Maps of one row or column keep it, and the answers keep their order."""
    network = random_network(3)
    for fold in FOLDS:
        folds = choose_folds(network, fold)
        assert folds[-1] == (1, 1)
        for layer, (fy, fx) in zip(network.layers[:-1], folds, strict=False):
            _, height, width = layer.out_shape
            assert fy == (fold[0] if height > 1 else 1)
            assert fx == (fold[1] if width > 1 else 1)


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("seed", range(12))
def test_folded_layers_compute_the_same(seed, fold):
    """The events of a layer, folded, through folded weights and axes: its accumulators, folded."""
    network = random_network(seed)
    folds = [(1, 1), *choose_folds(network, fold)]
    golden = Golden(network)
    for frame in random_frames(network, seed, 3):
        before = [acc.copy() for acc in golden.acc]
        golden.step(frame)
        for i, layer in enumerate(network.layers):
            y, x = axes(layer, folds[i], folds[i + 1])
            weights = folded_weights(layer, y, x).astype(np.int64)
            events = fold_map(golden.delta[i].reshape(layer.in_shape), folds[i])
            change = np.zeros((len(weights), y.out, x.out), np.int64)
            for channel, row, column in np.argwhere(events):
                for ty, oy in y.meets(row):
                    for tx, ox in x.meets(column):
                        taps = weights[:, channel, ty, tx]
                        change[:, oy, ox] += taps * events[channel, row, column]
            expected = golden.acc[i] - before[i]
            found = unfold_map(change, folds[i + 1], layer.out_shape)
            np.testing.assert_array_equal(found, expected, f"layer {i}")
            # Classes that the last row or column does not have are left alone.
            np.testing.assert_array_equal(fold_map(found, folds[i + 1]), change)


def layer(weight, in_shape, out_shape):
    """A quantised layer of stride 1."""
    out = len(weight)
    return QuantisedLayer(
        weight=np.array(weight, np.int8), in_shape=in_shape, out_shape=out_shape, stride=(1, 1),
        padding=(0, 0), bias=np.zeros(out, np.int64), multiplier=np.ones(out, np.int64), shift=1,
        name="layer", signed=False, threshold=0, scale=1.0, dense_multiplications=1,
    )  # fmt: skip


def test_folded_weights_by_hand():
    """Kernel (a, b) over five pixels, four outputs, folded by 2: outputs (0, 1) and (2, 3).

    Pixel 2 Y + 1 is tap b of class 0 at Y; pixel 2 Y is tap a of class 0 at Y, and so on.
    """
    described = layer([[[[3, 5]]]], (1, 1, 5), (1, 1, 4))
    y, x = axes(described, (1, 1), (1, 2))
    weights = folded_weights(described, y, x)
    assert weights.shape == (2, 1, 1, x.taps)
    found = {}
    for pixel in range(5):
        for tap, position in x.meets(pixel):
            for q in range(2):
                if weights[q, 0, 0, tap]:
                    found[pixel, 2 * position + q] = int(weights[q, 0, 0, tap])
    assert found == {(o + k, o): w for o in range(4) for k, w in enumerate((3, 5))}
