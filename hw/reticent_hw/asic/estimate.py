"""What frames do to a netlist, without simulating it: an estimate.

Exact are the cycles of a frame, and how often the lanes' memories are read and written for its
multiplications, for the neurons that are examined, and for those that fire. Assumed are how often
the output of a cell changes and how often the clock of a gated register ticks. Other memories are
left out, and so is that a row which a memory still shows is not read again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from reticent.cycles import CycleModel
from reticent.energy import LayerCounter
from reticent.golden import Golden
from reticent.image import Image
from reticent.layout import ResultLayout
from reticent.quantise import QuantisedNetwork

from .frames import Activity, Frame, Pixels, turns
from .netlist import Netlist

__all__ = ["CHANGES", "METHOD", "TICKS", "expected_frames"]

# In a cycle: changes of a cell's output, and ticks of a clock gate. One lane that plays Breakout
# showed 0.015 to 0.023 and 0.09 to 0.11, four lanes 0.034 to 0.038 and 0.07 to 0.08.
CHANGES, TICKS = 0.03, 0.1

METHOD = (
    "An estimate: exact are cycles, multiplications, and reads and writes of the lanes' memories "
    f"for them; assumed are {CHANGES:g} changes of a cell's output and {TICKS:g} ticks of a clock "
    "gate in a cycle. Powers of cells at no change and at one in a cycle are OpenSTA's, energies "
    "of memories those of their macros; other memories are left out."
)

RESULT = 2.5  # cycles a word of the result packet, which takes one to six

MEMORY = re.compile(
    r"lane_\d+/parts/(weights|state_even|state_odd|pointers|channels)(?:_\d+)?/.*macro_\d+_(\d+)$"
)
POINTERS = 2  # where the weights of a tap begin and end


def expected_frames(
    network: QuantisedNetwork,
    image: Image,
    frames: Sequence[Pixels],
    thresholds: Sequence[float],
    netlist: Netlist,
) -> Iterator[Frame]:
    """The frames that `turns` shows, as the netlist would run them."""
    golden, model = Golden(network), CycleModel(image)
    answering = round(RESULT * ResultLayout(image.outputs, len(image.layers)).words)
    for turn in turns(network, frames, thresholds):
        if turn.number == 0:
            golden.set_thresholds(list(network.with_thresholds(turn.threshold).thresholds))
            model.reset()
        step = golden.step(turn.pixels)
        model.step(turn.pixels, golden.fired)
        if turn.shown:
            uses = _uses(network, golden, step.significant, image.config.lanes, turn.number == 0)
            activity = _activity(netlist, model.whole + answering, uses)
            yield Frame(turn.threshold, turn.anew, sum(step.significant), activity)


def _uses(
    network: QuantisedNetwork,
    golden: Golden,
    significant: Sequence[int],
    lanes: int,
    fresh: bool,
) -> dict[str, tuple[int, int]]:
    """Reads and writes of each memory in all lanes together; in a `fresh` frame every neuron is
    examined."""
    found = dict.fromkeys(("weights", "state_even", "state_odd", "pointers", "channels"), (0, 0))

    def add(memory: str, reads: int, writes: int = 0) -> None:
        found[memory] = (found[memory][0] + reads, found[memory][1] + writes)

    sent = [int(np.count_nonzero(delta)) for delta in golden.delta[1:]] + [0]
    for i, layer in enumerate(network.layers):
        runs, touched = LayerCounter(layer).count(golden.delta[i])
        channels, height, width = layer.out_shape
        last = i == len(network.layers) - 1
        examined = 0 if last else channels * (height * width if fresh else touched)
        add("weights", significant[i])
        add("pointers", runs * lanes * POINTERS)
        add("channels", examined)
        add(
            f"state_{'odd' if i % 2 else 'even'}",
            significant[i] + examined,
            significant[i] + sent[i],
        )
    return found


def _activity(netlist: Netlist, cycles: int, uses: Mapping[str, tuple[int, int]]) -> Activity:
    """What is expected of `cycles` in which the memories are used so often."""
    columns: dict[tuple[str, str], list[str]] = {}
    for path in netlist.macros:
        if found := MEMORY.search(path):
            columns.setdefault((found[1], found[2]), []).append(path)
    # A row lies in a macro of each column; which one does not matter, as they are alike.
    reads, writes = (
        {
            path: uses[memory][kind] / len(paths)
            for (memory, _), paths in columns.items()
            for path in paths
        }
        for kind in (0, 1)
    )
    changes = dict.fromkeys(netlist.nets, CHANGES * cycles)
    ticks = dict.fromkeys(netlist.gates, TICKS * cycles)
    return Activity(cycles, 0, changes, reads, writes, ticks)
