"""What is expected of a frame on a netlist: its counts are those of the golden model."""

import numpy as np
import pytest

from reticent.compiler import compile_network
from reticent.config import BuildConfig
from reticent.cycles import CycleModel
from reticent.golden import Golden
from reticent.random_networks import random_frames, random_network
from reticent_hw.asic.estimate import CHANGES, TICKS, expected_frames
from reticent_hw.asic.frames import turns
from reticent_hw.asic.netlist import Netlist

LANES, FRAMES, THRESHOLDS = 4, 6, (0.1, 0.0)
MEMORIES = {"weights/memory": 2, "state_even": 1, "state_odd": 1, "pointers/memory": 1}
MACROS = {
    f"lane_{lane}/parts/{memory}/macro_{bank}_{column}": "macro"
    for lane in range(LANES)
    for memory, columns in MEMORIES.items()
    for bank in range(2)
    for column in range(columns)
} | {"encoder/history/macro_0_0": "macro"}
NETLIST = Netlist(MACROS, {"lane_0/_1_": "lane_0/n", "_2_": "m"}, {}, {"_3_"})


@pytest.mark.parametrize("seed", [3, 5])
def test_counts_are_those_of_the_frames(seed):
    network = random_network(seed)
    frames = random_frames(network, seed, FRAMES)
    image = compile_network(network, BuildConfig.for_lanes(LANES), frames[:3])
    found = list(expected_frames(network, image, frames, THRESHOLDS, NETLIST))
    golden, model = Golden(network), CycleModel(image)
    shown = iter(found)
    for turn in turns(network, frames, THRESHOLDS):
        if turn.number == 0:
            golden.set_thresholds(list(network.with_thresholds(turn.threshold).thresholds))
            model.reset()
        step = golden.step(turn.pixels)
        model.step(turn.pixels, golden.fired)
        if not turn.shown:
            continue
        frame = next(shown)
        activity, uses = frame.activity, {}
        assert (frame.threshold, frame.anew) == (turn.threshold, turn.anew)
        assert frame.significant == sum(step.significant)
        assert model.whole < activity.cycles < model.whole + 200
        assert activity.sampled == 0
        assert set(activity.changes.values()) == {CHANGES * activity.cycles}
        assert activity.ticks == {"_3_": TICKS * activity.cycles}
        for memory in MEMORIES:
            # Every column of a row is read, in one of the banks of one of the lanes.
            for column in range(MEMORIES[memory]):
                paths = [p for p in MACROS if f"/{memory}/" in p and p.endswith(f"_{column}")]
                reads = sum(activity.reads[p] for p in paths)
                uses[memory] = reads, sum(activity.writes[p] for p in paths)
        assert uses["weights/memory"] == (pytest.approx(frame.significant), 0)
        sent = [np.count_nonzero(delta) for delta in golden.delta[1:]] + [0]
        for first, memory in enumerate(("state_even", "state_odd")):
            met = sum(step.significant[first::2])
            reads, writes = uses[memory]
            assert writes == pytest.approx(met + sum(sent[first::2]))
            assert met <= reads + 1e-6
        assert uses["pointers/memory"][0] % (2 * LANES) == pytest.approx(0)
        assert "encoder/history/macro_0_0" not in activity.reads
    assert next(shown, None) is None
