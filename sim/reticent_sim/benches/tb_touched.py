"""The touched map against an array of bits."""

import numpy as np

from .common import CONFIG, Bench, bench_test

ROWS, COLUMNS = CONFIG.map_rows, CONFIG.map_columns
ROUNDS = 120


def bits(columns: np.ndarray) -> int:
    return sum(int(bit) << x for x, bit in enumerate(columns))


@bench_test
async def marks_reads_and_clears(dut):
    """In turns, as in a frame: many marks, then all rows are read and some of them cleared."""
    bench = await Bench.start(dut)
    rng = bench.rng
    touched = np.zeros((ROWS, COLUMNS), bool)
    for row in range(ROWS):
        bench["row"], bench["clear"] = row, 1
        await bench.edge
    for _ in range(ROUNDS):
        bench["clear"] = 0
        for _ in range(rng.integers(ROWS)):
            row, valid = int(rng.integers(ROWS)), bool(rng.random() < 0.8)
            second = bool(rng.integers(2)) and row + 1 < ROWS
            mask = rng.random(COLUMNS) < rng.choice([0.1, 0.5, 1])
            bench["mark__valid"], bench["mark__row"] = valid, row
            bench["mark__second"], bench["mark__mask"] = second, bits(mask)
            touched[row : row + 1 + second] |= mask & valid
            await bench.edge
        bench["mark__valid"] = 0
        for row in rng.permutation(ROWS).tolist():
            clear = bool(rng.random() < 0.3)
            bench["row"], bench["clear"] = row, clear
            await bench.middle
            bench.check(f"columns of row {row}", bench["columns"], bits(touched[row]))
            touched[row] &= not clear
            await bench.edge
