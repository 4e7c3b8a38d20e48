"""The memory table."""

from dataclasses import fields

import pytest

from reticent.config import BuildConfig
from reticent.memory import memory_table, memory_uses

CONFIG = BuildConfig(
    lanes=2, weight_depth=1024, relative_bits=8, state_depth_even=512, accumulator_bits=24
)


def by_name(**used):
    return {use.name: use for use in memory_uses(CONFIG, used)}


def test_bits_of_a_row_in_all_lanes():
    uses = by_name()
    assert uses["weights of a lane"].row_bits == 2 * (8 + 8)
    assert uses["neurons of a lane, even layers"].row_bits == 2 * (24 + 8)
    assert uses["bytes of a frame"].row_bits == 8 * CONFIG.stack
    assert uses["stacked frames"].row_bits == 0


def test_streams_have_copies():
    """Pointers, waiting ranges, coordinate tables and touched maps; weights and neurons once."""
    one, three = (
        {use.name: use.row_bits for use in memory_uses(config, {})}
        for config in (CONFIG.replace(lanes=6), CONFIG.replace(lanes=6, streams=3))
    )
    copied = {
        "pointers of a lane",
        "ranges waiting in a lane",
        "input map rows, all layers",
        "input map columns, all layers",
        "output map rows",
    }
    for name, bits in one.items():
        assert three[name] == bits * (3 if name in copied else 1), name


def test_every_depth_of_the_build_is_listed():
    choices = {use.choice for use in memory_uses(CONFIG, {})}
    depths = {f.name for f in fields(CONFIG) if f.name.endswith("_depth")}
    assert depths <= choices
    assert {"stack", "layers", "map_rows", "map_columns"} <= choices


def test_what_fits():
    uses = {u.name: u for u in memory_uses(CONFIG, {"weights of a lane": 1024, "layers": 9})}
    assert uses["weights of a lane"].fits
    assert not uses["layers"].fits
    assert uses["ranges waiting in a lane"].fits


def test_table():
    used = {use.name: 1 for use in memory_uses(CONFIG, {}) if "waiting" not in use.name}
    used["weights of a lane"] = 2048
    lines = memory_table(CONFIG, used).splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert lines[1].split("  ")[0] == "weights of a lane"
    # 2,048 rows of 16 bits in 2 lanes are 64 kbit; 1,024 rows were built.
    assert lines[1].split()[-5:] == ["2,048", "1,024", "64.0", "32.0", "<-"]
    assert sum(line.endswith("<-") for line in lines) == 1
    (buffers,) = (line.split() for line in lines if line.startswith("ranges waiting"))
    assert buffers[-4:-2] == ["-", str(CONFIG.fifo_depth)]
    total = float(lines[-1].split()[-1].replace(",", ""))
    bits = sum(use.built * use.row_bits for use in memory_uses(CONFIG, used))
    assert lines[-1].startswith("total")
    assert total == pytest.approx(bits / 1024, abs=0.06)
