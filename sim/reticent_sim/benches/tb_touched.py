"""The touched map against an array of bits."""

import numpy as np

from .common import CONFIG, Bench, bench_test

ROWS, COLUMNS = CONFIG.map_rows, CONFIG.map_columns
ROUNDS = 120
SETTLED = 3  # cycles after which a mark is certainly there


def bits(columns: np.ndarray) -> int:
    return sum(int(bit) << x for x, bit in enumerate(columns))


@bench_test
async def marks_reads_and_clears(dut):
    """In turns, as in a frame: many marks, then rows are read, then the map may be cleared."""
    bench = await Bench.start(dut)
    rng = bench.rng
    touched = np.zeros((ROWS, COLUMNS), bool)
    for _ in range(ROUNDS):
        for _ in range(rng.integers(ROWS)):
            row, valid = int(rng.integers(ROWS)), bool(rng.random() < 0.8)
            second = bool(rng.integers(2)) and row + 1 < ROWS
            mask = rng.random(COLUMNS) < rng.choice([0.1, 0.5, 1])
            mask[rng.integers(COLUMNS)] = True  # an event that reaches nothing marks nothing
            bench["mark__valid"], bench["mark__row"] = valid, row
            bench["mark__second"], bench["mark__mask"] = second, bits(mask)
            bench["row"] = int(rng.integers(ROWS))  # means nothing while it is marked
            touched[row : row + 1 + second] |= mask & valid
            await bench.edge
        bench["mark__valid"] = 0
        await bench.cycles(SETTLED)
        for row in rng.permutation(ROWS).tolist():
            bench["row"] = row
            await bench.middle
            bench.check(f"columns of row {row}", bench["columns"], bits(touched[row]))
            bench.check("rows", bench["rows"], bits(touched.any(axis=1)))
            await bench.edge
        if rng.random() < 0.5:
            # It wins over a mark in the cycle before.
            bench["mark__valid"], bench["mark__row"] = int(rng.integers(2)), int(rng.integers(ROWS))
            bench["mark__second"], bench["mark__mask"] = 0, bits(np.ones(COLUMNS, bool))
            await bench.edge
            bench["mark__valid"], bench["clear"] = 0, 1
            touched[:] = False
            await bench.edge
            bench["clear"] = 0


@bench_test
async def clearing_takes_one_cycle(dut):
    """Marks in the cycle after `clear` are there, and nothing of what was before."""
    bench = await Bench.start(dut)
    for _ in range(20):
        bench["mark__valid"], bench["mark__second"] = 1, 0
        bench["mark__mask"] = bits(np.ones(COLUMNS, bool))
        for row in range(ROWS):
            bench["mark__row"] = row
            await bench.edge
        bench["mark__valid"], bench["clear"] = 0, 1
        await bench.edge
        row, column = int(bench.rng.integers(ROWS)), int(bench.rng.integers(COLUMNS))
        bench["clear"], bench["mark__valid"] = 0, 1
        bench["mark__row"], bench["mark__mask"] = row, 1 << column
        await bench.edge
        bench["mark__valid"] = 0
        await bench.cycles(SETTLED)
        for y in range(ROWS):
            bench["row"] = y
            await bench.middle
            bench.check(f"columns of row {y}", bench["columns"], (1 << column) * (y == row))
            await bench.edge
        bench.check("rows", bench["rows"], 1 << row)


@bench_test
async def reset_clears(dut):
    bench = await Bench.start(dut)
    bench["mark__valid"], bench["mark__mask"] = 1, 1
    await bench.edge
    bench["mark__valid"] = 0
    await bench.cycles(SETTLED)
    await bench.reset()
    await bench.middle
    bench.check("rows", bench["rows"], 0)
    bench.check("columns of row 0", bench["columns"], 0)
