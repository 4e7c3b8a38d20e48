"""A step between Yosys and nextpnr for ECP5: `python -m reticent_hw.boards.netlist NETLIST.json`.

Gives block memories their output registers, and them and multipliers their places; see
`output_registers` and `floorplan`.
"""

import json
import os
import sys
from pathlib import Path

from .floorplan import place_blocks, place_multipliers
from .output_registers import absorb

__all__ = ["finish"]


def finish(path: Path) -> None:
    """Change the netlist in a file."""
    netlist = json.loads(path.read_text())
    (top,) = (m for m in netlist["modules"].values() if int(m["attributes"].get("top", "0"), 2))
    print(f"output registers of block memories: {absorb(top)}")
    print(f"block memories with a place: {place_blocks(top)}")
    print(f"multipliers with a place: {place_multipliers(top)}")
    new = path.with_suffix(".new")
    new.write_text(json.dumps(netlist))
    os.replace(new, path)


if __name__ == "__main__":
    finish(Path(sys.argv[1]))
