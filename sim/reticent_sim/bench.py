"""Builds and runs the cocotb benches: one model for each block and build configuration."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from amaranth.lib import wiring
from cocotb_tools.runner import Verilator

from reticent.config import BuildConfig
from reticent_hw.core import Core
from reticent_hw.encoder import DeltaEncoder
from reticent_hw.export import TOP, component_verilog, core_verilog
from reticent_hw.host import HostPort
from reticent_hw.lane import Lane, Requantiser
from reticent_hw.link.link import Link
from reticent_hw.link.receiver import RequestReceiver
from reticent_hw.link.replier import Replier
from reticent_hw.link.uart import UartReceiver, UartTransmitter
from reticent_hw.ranges import RangeGenerator
from reticent_hw.scanner import NeuronScanner
from reticent_hw.touched import TouchedMap

from .build import (
    WARNINGS,
    alone,
    build_folder,
    link_sources,
    publish,
    scratch_folder,
    sources_digest,
    toolchain_environment,
)

__all__ = ["BLOCKS", "REPLY_BYTES", "REQUEST_BYTES", "UART", "run_bench"]

UART = (1_000_000, 95_000)  # clock and baud: 10.5 cycles a bit
REQUEST_BYTES, REPLY_BYTES = 512, 560  # longer than a full COBS block

# The module `benches.tb_<name>` tests the block `name`.
BLOCKS: dict[str, Callable[[BuildConfig], wiring.Component]] = {
    "requantiser": Requantiser,
    "lane": Lane,
    "ranges": RangeGenerator,
    "touched": TouchedMap,
    "scanner": NeuronScanner,
    "encoder": DeltaEncoder,
    "host": HostPort,
    "uart_receiver": lambda _: UartReceiver(*UART),
    "uart_transmitter": lambda _: UartTransmitter(*UART),
    "receiver": lambda _: RequestReceiver(REQUEST_BYTES),
    "replier": lambda _: Replier(REPLY_BYTES),
    "link": lambda config: Link(
        config,
        name="bench",
        clock=UART[0],
        baud=UART[1],
        request_bytes=REQUEST_BYTES,
        reply_bytes=REPLY_BYTES,
        patience=10,
    ),
    "core": Core,
}

# Benches use ports only, so nothing else is kept visible: the runner's `--public-flat-rw` would
# turn most of Verilator's optimisations off.
VERILATOR = (
    *WARNINGS,
    "-Wno-SYMRSVDWORD",
    "--no-public-flat-rw",
    "--public-depth",
    "1",
    "--no-assert",
)
COMPILER = " OPT_FAST=-O1"

RUNTIME = ("verilated.o", "verilated_dpi.o", "verilated_threads.o", "verilated_vpi.o")

DEFAULT_SEED = 1


def run_bench(block: str, config: BuildConfig, folder: Path) -> None:
    """Run all tests of a block's bench; `folder` takes the log and the results.

    Every random choice follows from `$RETICENT_SEED` (a default otherwise). Raises AssertionError
    that names the failed tests and how to repeat them.
    """
    seed = int(os.environ.get("RETICENT_SEED", DEFAULT_SEED))
    model = _model(block, config)
    log, results = folder / "bench.log", folder / "results.xml"
    with contextlib.suppress(SystemExit, RuntimeError):  # what went wrong is read from the files
        Verilator().test(
            test_module=f"reticent_sim.benches.tb_{block}",
            hdl_toplevel=_top(block),
            hdl_toplevel_lang="verilog",
            build_dir=model,
            test_dir=folder,
            results_xml=str(results.absolute()),
            log_file=log,
            seed=seed,
            extra_env={
                "RETICENT_BENCH_BLOCK": block,
                "RETICENT_BENCH_CONFIG": json.dumps(config.to_dict()),
            },
        )
    cases = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
    failures = [
        f"{case.get('name')}: {failure.text}"
        for case in cases
        for tag in ("failure", "error")
        for failure in case.iter(tag)
    ]
    if not cases:
        failures = [f"it did not finish\n{log.read_text()[-4000:]}"]
    if failures:
        raise AssertionError(
            f"bench of {block}; repeat with RETICENT_SEED={seed}\n" + "\n".join(failures)
        )


def _top(block: str) -> str:
    return TOP if BLOCKS[block] is Core else f"reticent_{block}"


def _verilog(block: str, config: BuildConfig) -> str:
    component = BLOCKS[block](config)
    if isinstance(component, Core):
        return core_verilog(component)
    return component_verilog(component, _top(block))


class _Builder(Verilator):
    """The runner, with Verilator's run-time library taken from where the first model left it.

    It is the same in every model, and compiling it takes longer than compiling a block.
    """

    def __init__(self, runtime: Path) -> None:
        super().__init__()
        self._runtime = runtime

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        objects = [str(self._runtime / name) for name in RUNTIME]
        # Copied after Verilator ran, they are newer than everything that they could depend on.
        copy = [["cp", *objects, str(self.build_dir)]] if self._runtime.exists() else []
        return [verilate, *copy, make]

    def keep_runtime(self) -> None:
        """Leave the library for others."""
        if not self._runtime.exists():
            with scratch_folder(self._runtime) as objects:
                for name in RUNTIME:
                    shutil.copy(self.build_dir / name, objects)
                publish(objects, self._runtime)


def _model(block: str, config: BuildConfig) -> Path:
    """The folder of a block's Verilated model, built when it is not there yet."""
    digest = hashlib.sha256(sources_digest(*link_sources(), Path(__file__)).encode())
    name = f"{block}-{config.lanes}-lanes-{config.hash:08x}-{digest.hexdigest()[:12]}"
    folder = build_folder() / "benches" / name
    if folder.exists():
        return folder
    runtime = folder.with_name(f"runtime-{importlib.metadata.version('verilator')}")
    with contextlib.ExitStack() as stack:
        if not runtime.exists():
            stack.enter_context(alone(runtime.parent))
        scratch = stack.enter_context(scratch_folder(folder))
        stack.enter_context(_environment(toolchain_environment()))
        source = scratch / f"{_top(block)}.v"
        source.write_text(_verilog(block, config))
        builder = _Builder(runtime)
        log = scratch / "build.log"
        try:
            builder.build(
                sources=[source],
                hdl_toplevel=_top(block),
                build_dir=scratch,
                build_args=list(VERILATOR),
                always=True,
                log_file=log,
            )
        except RuntimeError:
            raise RuntimeError(f"building {block} failed:\n{log.read_text()[-4000:]}") from None
        builder.keep_runtime()
        publish(scratch, folder)
    return folder


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """The runner takes its environment from this process."""
    before = dict(os.environ)
    os.environ.update(values)
    os.environ["MAKEFLAGS"] += COMPILER
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
