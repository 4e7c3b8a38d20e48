"""The energy estimate: its constants, its scaling, and that its counts are exact."""

import numpy as np
import pytest

from reticent.config import BuildConfig
from reticent.energy import PURPOSES, LayerCounter, add_pj, frame_energy, memory_pj, multiply_pj
from reticent.golden import Golden
from reticent.random_networks import random_frames, random_network

CONFIG = BuildConfig.for_lanes(4)


def test_energies_are_the_published_ones():
    """Horowitz, ISSCC 2014, figure 1.1.9."""
    assert add_pj(32) == pytest.approx(0.1)
    assert multiply_pj(8, 8) == pytest.approx(0.2)
    assert multiply_pj(32, 32) == pytest.approx(3.1, rel=0.05)
    assert memory_pj(1024, 64) == pytest.approx(10)
    assert memory_pj(4096, 64) == pytest.approx(20)
    assert memory_pj(131072, 64) == pytest.approx(100, rel=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_runs_and_touched_positions_are_counted_as_events_meet_them(seed):
    network = random_network(seed)
    golden = Golden(network)
    for frame in random_frames(network, seed, 4):
        golden.step(frame)
        for layer, delta in zip(network.layers, golden.delta, strict=True):
            (ky, kx), (sy, sx) = layer.weight.shape[2:], layer.stride
            touched, runs = set(), 0
            for _, y, x in zip(*np.nonzero(delta), strict=True):
                y, x = y + layer.padding[0], x + layer.padding[1]
                rows = [o for o in range(layer.out_shape[1]) if 0 <= y - o * sy < ky]
                columns = [o for o in range(layer.out_shape[2]) if 0 <= x - o * sx < kx]
                touched |= {(a, b) for a in rows for b in columns}
                if rows and columns:
                    whole = len(columns) == len(range(x % sx, kx, sx))
                    runs += 1 if whole else len(rows)
            assert LayerCounter(layer).count(delta) == (runs, len(touched))


def test_energy_of_frames_is_that_of_their_counts():
    network = random_network(3)
    frames = random_frames(network, 3, 6)
    starts = [True, False, False, True, False, False]
    found = frame_energy(network, CONFIG, frames, starts)
    assert found["frames"] == 4
    golden, significant = Golden(network), np.zeros(len(network.layers))
    for frame, first in zip(frames, starts, strict=True):
        if first:
            golden.reset()
        step = golden.step(frame)
        if not first:
            significant += step.significant
    product = multiply_pj(8, 9) + add_pj(24)
    for layer, one, count in zip(network.layers, found["layers"], significant, strict=True):
        assert tuple(one["sparse"]) == tuple(one["dense"]) == PURPOSES
        assert one["sparse"]["arithmetic"] == pytest.approx(count / 4 * product)
        assert one["dense"]["arithmetic"] == pytest.approx(layer.dense_multiplications * product)
    assert found["sparse"] == pytest.approx(
        sum(sum(layer["sparse"].values()) for layer in found["layers"])
    )


def test_a_still_picture_costs_only_its_comparison():
    network = random_network(3)
    assert network.input.stack == 1
    frame = random_frames(network, 3, 1)[0]
    found = frame_energy(network, CONFIG, [frame, frame], [True, False])
    first, *others = found["layers"]
    assert first["sparse"].pop("thresholds") == pytest.approx(found["sparse"]) != 0
    assert not any(first["sparse"].values())
    assert not any(sum(layer["sparse"].values()) for layer in others)
