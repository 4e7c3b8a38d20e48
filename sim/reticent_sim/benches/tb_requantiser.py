"""The requantiser against the arithmetic contract (`reticent.arithmetic`)."""

import numpy as np

from reticent.arithmetic import THRESHOLD_MAX, activation_range, fires, requantise
from reticent_hw.lane import REQUANTISE_LATENCY as LATENCY

from .common import CONFIG, Bench, bench_test

LARGEST_SHIFT = 31
BATCH = 60  # neurons for each setting

ACC_LOW, ACC_HIGH = -(1 << (CONFIG.accumulator_bits - 1)), (1 << (CONFIG.accumulator_bits - 1)) - 1
MULTIPLIER_HIGH = (1 << CONFIG.multiplier_bits) - 1
Neuron = tuple[int, int, int]  # accumulator, multiplier, sent (of the layer's signedness)


def interesting(rng: np.random.Generator, shift: int, signed: bool) -> Neuron:
    """A neuron whose activation is likely to be an edge: a tie, a limit, an extreme operand."""
    low, high = activation_range(signed)
    sent = int(rng.integers(low, high + 1))
    multiplier = int(rng.integers(1, 1 << rng.integers(1, CONFIG.multiplier_bits + 1)))
    kind = rng.integers(4)
    if kind == 0:  # any size
        multiplier = int(rng.choice([0, 1, MULTIPLIER_HIGH, multiplier]))
        acc = int(rng.integers(ACC_LOW, ACC_HIGH + 1)) >> int(rng.integers(CONFIG.accumulator_bits))
    elif kind == 1:
        acc = int(rng.choice([ACC_LOW, ACC_LOW + 1, -1, 0, 1, ACC_HIGH - 1, ACC_HIGH]))
    else:  # an activation near a limit, or near what was sent; half of them exact ties
        target = int(rng.choice([low, high, sent, rng.integers(low, high + 1)]))
        if kind == 3:
            multiplier = 1 << int(rng.integers(min(shift, CONFIG.multiplier_bits)))
        acc = ((2 * target + int(rng.choice([-1, 1]))) << shift) // (2 * multiplier)
        acc += int(rng.integers(-1, 2))
    return int(np.clip(acc, ACC_LOW, ACC_HIGH)), multiplier, sent


async def examine(bench: Bench, shift: int, signed: bool, threshold: int, neurons: list[Neuron]):
    """One neuron a cycle; the answer to each stands at the outputs `LATENCY` cycles later."""
    bench["shift"], bench["is_signed"], bench["threshold"] = shift, signed, threshold
    valid = bench.rng.random(len(neurons)) < 0.9
    for i in range(len(neurons) + LATENCY):
        if i < len(neurons):
            bench["valid"] = valid[i]
            bench["acc"], bench["multiplier"], sent = neurons[i]
            bench["sent"] = sent & 0xFF
        await bench.middle
        if i >= LATENCY:
            acc, multiplier, sent = neurons[i - LATENCY]
            activation = int(requantise(acc, multiplier, shift, signed))
            fired = int(valid[i - LATENCY] and fires(activation, sent, threshold))
            expected = (activation, activation - sent, fired)
            stored = bench["activation"]
            got = (stored - 256 * (signed and stored > 127), bench["change"], bench["fired"])
            if got != expected:
                bench.fail(
                    f"acc {acc}, multiplier {multiplier}, shift {shift}, signed {signed}, sent "
                    f"{sent}, threshold {threshold}: expected (activation, change, fired) = "
                    f"{expected}, got {got}"
                )
        await bench.edge


async def every_shift(dut, signed: bool):
    bench = await Bench.start(dut)
    for shift in range(1, LARGEST_SHIFT + 1):
        threshold = int(bench.rng.choice([0, 1, THRESHOLD_MAX, bench.rng.integers(256)]))
        neurons = [interesting(bench.rng, shift, signed) for _ in range(BATCH)]
        await examine(bench, shift, signed, threshold, neurons)


@bench_test
async def every_shift_after_relu(dut):
    await every_shift(dut, signed=False)


@bench_test
async def every_shift_after_identity(dut):
    await every_shift(dut, signed=True)


@bench_test
async def every_threshold_is_strict(dut):
    """Changes of exactly the threshold, one less and one more, of either sign."""
    bench = await Bench.start(dut)
    for threshold in range(THRESHOLD_MAX + 1):
        signed = bool(bench.rng.integers(2))
        low, high = activation_range(signed)
        neurons = []
        for change in (s * (threshold + d) for d in (-1, 0, 1) for s in (-1, 1)):
            sent = int(np.clip(bench.rng.integers(low, high + 1), low - change, high - change))
            sent = int(np.clip(sent, low, high))
            neurons.append((sent + change, 2, sent))  # 2 >> 1: the accumulator itself
        await examine(bench, 1, signed, threshold, neurons)
