"""The core as it will be in silicon: SRAM macros, and nothing known of any register or row at
power-up."""

from __future__ import annotations

import hashlib
from pathlib import Path

from reticent.accelerator import Accelerator
from reticent.config import BuildConfig
from reticent.image import Image
from reticent_hw.asic.design import core_of_chip_verilog
from reticent_hw.asic.macros import MacroLibrary
from reticent_hw.asic.pdk import Pdk
from reticent_hw.export import TOP

from .backend import SimTransport
from .build import CORE_HARNESS, model

__all__ = ["silicon_backend", "silicon_library"]

# Registers and memories without an initial value, and every unknown, are random.
RANDOM = ("--x-initial", "unique", "--x-assign", "unique")


def silicon_library(config: BuildConfig, pdk: Pdk) -> Path:
    """The shared library of the core with the kit's macros, built when it is not there yet."""
    macros = MacroLibrary(pdk)
    verilog = core_of_chip_verilog(config, macros)
    models = [macro.model() for _, macro in sorted(macros.used.items())]
    text = "\n".join([verilog, *models])
    digest = hashlib.sha256(text.encode() + CORE_HARNESS.read_bytes()).hexdigest()[:12]
    return model(
        f"silicon-{pdk.name}-{config.lanes}-lanes-{digest}",
        f"the core in {pdk.name} ({config.lanes} lanes)",
        TOP,
        CORE_HARNESS,
        lambda: text,
        RANDOM,
    )


def silicon_backend(config: BuildConfig, image: Image, pdk: Pdk, *, seed: int) -> Accelerator:
    """An image on that core, which holds random contents at power-up; `seed` (above 0) chooses."""
    return Accelerator("sim", SimTransport(config, silicon_library(config, pdk), seed), image)
