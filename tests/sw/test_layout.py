"""Rows, words and addresses, against plain big integers."""

import numpy as np
import pytest

from reticent.config import BuildConfig
from reticent.layout import (
    INDEX_BITS,
    LANE_SHIFT,
    SPACE_SHIFT,
    WORD_BITS,
    ResultLayout,
    Space,
    address,
    pack,
    row_fields,
    row_words,
    word_index_bits,
)

CONFIGS = [
    BuildConfig(),
    BuildConfig(lanes=1, weight_depth=2, pointer_depth=2, state_depth_even=2, state_depth_odd=2),
    BuildConfig(lanes=64, weight_depth=1 << 18, pointer_depth=1 << 16, relative_bits=20),
    BuildConfig(lanes=7, map_depth=4096, map_rows=200, map_columns=3, accumulator_bits=32),
]
SPACES = [space for space in Space if space != Space.REGISTER]
LOADED = [s for s in SPACES if s not in (Space.STATE_EVEN, Space.STATE_ODD)]


def limits(bits, signed):
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def zeros(config, space, count=1):
    return {name: np.zeros(count, np.int64) for name, _, _ in row_fields(config, space)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.lanes} lanes")
@pytest.mark.parametrize("space", LOADED, ids=lambda s: s.name)
def test_pack_is_one_big_number_cut_into_words(config, space):
    rng = np.random.default_rng(int(space))
    rows = {}
    for name, bits, signed in row_fields(config, space):
        low, high = limits(bits, signed)
        rows[name] = np.concatenate([[low, high, 0], rng.integers(low, high + 1, 20)])
    words = pack(config, space, rows)
    assert words.shape == (23, row_words(config, space))
    for i, packed in enumerate(words.tolist()):
        number, offset = 0, 0
        for name, bits, _ in row_fields(config, space):
            number |= (int(rows[name][i]) % (1 << bits)) << offset
            offset += bits
        assert all(0 <= word < 1 << WORD_BITS for word in packed)
        assert sum(word << (WORD_BITS * w) for w, word in enumerate(packed)) == number


@pytest.mark.parametrize("space", LOADED, ids=lambda s: s.name)
def test_pack_refuses_what_does_not_fit(space):
    config = BuildConfig()
    for name, bits, signed in row_fields(config, space):
        low, high = limits(bits, signed)
        for odd in (low - 1, high + 1):
            rows = zeros(config, space, 3)
            rows[name][1] = odd
            with pytest.raises(ValueError, match=rf"{space.name}\.{name} is {odd}, outside"):
                pack(config, space, rows)


def test_pack_wants_exactly_the_fields():
    config = BuildConfig()
    with pytest.raises(ValueError, match="WEIGHT rows have fields"):
        pack(config, Space.WEIGHT, {"weight": [1]})
    with pytest.raises(ValueError, match="WEIGHT rows have fields"):
        pack(config, Space.WEIGHT, zeros(config, Space.WEIGHT) | {"more": [0]})


def test_pack_of_no_rows():
    config = BuildConfig()
    assert pack(config, Space.LAYER, zeros(config, Space.LAYER, 0)).shape == (
        0,
        row_words(config, Space.LAYER),
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.lanes} lanes")
def test_addresses_are_distinct_and_fit_a_word(config):
    depths = {
        Space.LAYER: config.layers,
        Space.ROW: config.map_depth,
        Space.COLUMN: config.map_depth,
        Space.POINTER: config.pointer_depth,
        Space.WEIGHT: config.weight_depth,
        Space.CHANNEL: config.channel_depth,
        Space.STATE_EVEN: config.state_depth_even,
        Space.STATE_ODD: config.state_depth_odd,
    }
    for space in SPACES:
        words, bits = row_words(config, space), word_index_bits(config, space)
        assert words <= 1 << bits
        last = ((depths[space] - 1) << bits) | (words - 1)
        assert last < 1 << INDEX_BITS
        whole = address(space, last, config.lanes - 1)
        assert whole < 1 << 32
        assert whole >> SPACE_SHIFT == space
        assert (whole >> LANE_SHIFT) & 63 == config.lanes - 1
        assert whole & ((1 << INDEX_BITS) - 1) == last


def test_a_full_memory_has_a_row_stride():
    config = BuildConfig(lanes=1, state_depth_even=1024)
    rows = zeros(config, Space.LAYER)
    rows["row_stride"][0] = 1024
    pack(config, Space.LAYER, rows)


def test_result_packet():
    # Outputs, three counts a layer, total cycles, four causes.
    assert ResultLayout(outputs=6, layers=5).words == 6 + 15 + 1 + 4
