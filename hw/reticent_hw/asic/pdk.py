"""Process design kits: what is known of each (`pdks/*.toml`), and where it is installed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reticent.errors import UserError

__all__ = ["CellChoice", "MemoryChoice", "Pdk", "PortPins", "find_pdk", "pdk_names"]

FOLDER = Path(__file__).with_name("pdks")


@dataclass(frozen=True, kw_only=True)
class PortPins:
    """The pins of one port of a macro by what they do; "~" before a name marks active low.

    A port without `write` only reads. Without `read` it reads whenever it is selected and does not
    write. `ones` are tied high.
    """

    clock: str
    address: str
    data_out: str
    select: str
    data_in: str | None = None
    write: str | None = None
    read: str | None = None
    ones: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MemoryChoice:
    """How memories are built.

    `name` is a pattern with the groups kind, rows and bits; without one there are no macros, and
    every memory is a black box with this access and setup time. `supplies` of every macro: net of
    power and of ground, and the pins that they go to.
    """

    from_bits: int
    name: str | None = None
    kinds: Mapping[str, tuple[PortPins, ...]] = field(default_factory=dict)
    supplies: tuple[tuple[str, str, str, str], ...] = ()
    access_ns: float = 0.0
    setup_ns: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CellChoice:
    """Cells that synthesis and timing name, and the clock period to aim at.

    `driver` drives inputs, outputs drive `load_pf`; `wire_load` is a model of the Liberty file,
    None where wires count nothing; cells that match `avoid` are not used. `clock_gate`: a cell that
    passes a rising clock on while its enable is high, its pins for enable, clock and gated clock,
    and those that are tied low.
    """

    target_ns: float
    driver: str
    buffer: tuple[str, ...]
    load_pf: float
    tie_high: tuple[str, ...] | None = None
    tie_low: tuple[str, ...] | None = None
    wire_load: str | None = None
    clock_gate: tuple[str, ...] | None = None
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pdk:
    """An installed kit, checked."""

    name: str
    title: str
    process_nm: float
    volts: float
    corner: str
    root: Path  # the kit's own folder
    cells_lib: Path
    macro_libs: tuple[Path, ...]
    cells: CellChoice
    memories: MemoryChoice
    layout: Mapping[str, str]  # paths under `root`; of macros with {} for the name


def pdk_names() -> list[str]:
    """The kits that are known."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_pdk(name: str, *, root: str | Path | None = None, corner: str | None = None) -> Pdk:
    """The kit `name`, found under `root`, `$PDK_ROOT` or where its package puts it.

    Raises UserError that says what is missing and how to get it.
    """
    if name not in pdk_names():
        raise UserError(f"PDK {name!r} is not known: give one of {', '.join(pdk_names())}")
    facts: dict[str, Any] = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    corners = facts["corners"]
    corner = corner or next(iter(corners))
    if corner not in corners:
        raise UserError(f"PDK {name} has no corner {corner!r}: give one of {', '.join(corners)}")
    folder = _folder(name, facts, root)
    cells_lib = folder / corners[corner]["cells"]
    if not cells_lib.is_file():
        raise UserError(f"PDK {name}: {cells_lib} is missing: {facts['install']}")
    macro_libs: tuple[Path, ...] = ()
    pattern = corners[corner].get("macros")
    if pattern:
        macro_libs = tuple(sorted(folder.glob(pattern)))
        if not macro_libs:
            raise UserError(
                f"PDK {name}: no SRAM macro {folder / pattern} is there: {facts['install']}"
            )
    memories = facts["memories"]
    kinds = {
        kind: tuple(PortPins(**{**port, "ones": tuple(port.get("ones", ()))}) for port in ports)
        for kind, ports in memories.pop("kinds", {}).items()
    }
    memories["supplies"] = tuple(tuple(nets) for nets in memories.get("supplies", ()))
    cells = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["cells"].items()}
    return Pdk(
        name=name,
        title=facts["title"],
        process_nm=facts["process_nm"],
        volts=facts["volts"],
        corner=corner,
        root=folder,
        cells_lib=cells_lib.resolve(),  # a link may lead where Yosys' sandbox does not
        macro_libs=macro_libs,
        cells=CellChoice(**cells),
        memories=MemoryChoice(**memories, kinds=kinds),
        layout=facts["layout"],
    )


def _folder(name: str, facts: Mapping[str, Any], root: str | Path | None) -> Path:
    """The kit's folder."""
    chosen = root or os.environ.get("PDK_ROOT") or None
    roots = [Path(r) for r in (chosen, facts.get("default_root")) if r]
    if not roots:
        raise UserError(
            f"PDK {name} was not found: PDK_ROOT is not set: {facts['install']}, "
            f"the folder that holds {facts['folder']}/"
        )
    for candidate in roots:
        if (candidate / facts["folder"]).is_dir():
            return (candidate / facts["folder"]).resolve()
    tried = " and ".join(str(r / facts["folder"]) for r in roots)
    raise UserError(f"PDK {name} was not found: {tried} is missing: {facts['install']}")
