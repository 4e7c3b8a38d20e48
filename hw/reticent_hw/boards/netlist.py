"""A step between Yosys and nextpnr for ECP5: `python -m reticent_hw.boards.netlist NETLIST.json`.

Gives block memories and multipliers their output registers and their places, and registers that
all lanes read a copy for each few lanes; see `output_registers`, `floorplan` and `copies`.
"""

import json
import os
import sys
from pathlib import Path

from .copies import copy_registers
from .floorplan import place_blocks, place_multipliers
from .output_registers import absorb

__all__ = ["finish"]


def finish(path: Path) -> None:
    """Change the netlist in a file."""
    netlist = json.loads(path.read_text())
    (top,) = (m for m in netlist["modules"].values() if int(m["attributes"].get("top", "0"), 2))
    for kind, count in absorb(top).items():
        print(f"output registers of {kind}: {count}")
    print(f"block memories with a place: {place_blocks(top)}")
    print(f"multipliers with a place: {place_multipliers(top)}")
    print(f"copies of registers that lanes share: {copy_registers(top)}")
    new = path.with_suffix(".new")
    new.write_text(json.dumps(netlist))
    os.replace(new, path)


if __name__ == "__main__":
    finish(Path(sys.argv[1]))
