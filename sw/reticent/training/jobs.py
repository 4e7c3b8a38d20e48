"""Independent resumable jobs on a process pool or a Ray cluster.

A job that returned leaves its result in `<folder>/done.json` and is never run again. One that
failed is tried again, a few times; the others go on meanwhile.

Whatever ends the process that gave out the jobs, SIGKILL too, its pool ends with it: the workers
get SIGTERM, on which a training keeps what it learned.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

from ..errors import ToolError, UserError
from .files import write_file

__all__ = ["ENGINES", "Job", "results", "run_jobs"]

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Job:
    """`call(*arguments)`, a function of a module, gives JSON types or raises."""

    name: str
    folder: Path
    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()

    @property
    def marker(self) -> Path:
        """Where the result is, once there is one."""
        return self.folder / "done.json"

    @property
    def finished(self) -> bool:
        """It need not run."""
        return self.marker.exists()

    def result(self) -> Any:
        """What it returned."""
        try:
            return json.loads(self.marker.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"result {self.marker} cannot be read ({error}): remove it and start again"
            ) from None


class Engine(Protocol):
    """Runs jobs somewhere."""

    def submit(self, job: Job) -> Future[Any]:
        """Begin a job, now or when there is room."""

    def close(self) -> None:
        """Release it, and stop what still runs."""


class _Local:
    """One pool of processes on this machine.

    The workers hold one end of a pipe and this process the other. Its closing, which no way of
    dying can leave out, is what stops them.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._theirs, self._ours = multiprocessing.Pipe(duplex=False)
        self._pool = self._make()

    def submit(self, job: Job) -> Future[Any]:
        try:
            return self._pool.submit(_work, job.call, *job.arguments)
        except BrokenProcessPool:  # a worker was killed: its jobs failed, a new pool goes on
            self._pool.shutdown(wait=False)
            self._pool = self._make()
            return self._pool.submit(_work, job.call, *job.arguments)

    def close(self) -> None:
        self._ours.close()
        self._pool.shutdown(cancel_futures=True)
        self._theirs.close()

    def _make(self) -> ProcessPoolExecutor:
        # A forked child would inherit the threads' locks of whatever ran before, and `_ours`.
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, spawn, _join, (self._theirs,))


_stopped = threading.Event()  # of a worker: nobody waits for its results any more


def _join(lifeline: Connection) -> None:
    """Begin a worker: when the other end of `lifeline` closes, stop as on SIGTERM."""
    os.setpgrp()  # a terminal's interrupt is for the parent; a second signal would end jobs rudely

    def watch() -> None:
        lifeline.poll(None)
        _stopped.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _work(call: Callable[..., Any], *arguments: Any) -> Any:
    """Do a job in a worker."""
    try:
        return call(*arguments)
    finally:
        if _stopped.is_set():  # the job took the signal for itself, to end in good order
            os._exit(1)


class _Ray:
    """A Ray cluster: the one that RAY_ADDRESS names, else a local one with so many workers.

    The run folders must be on a file system that all nodes share.
    """

    def __init__(self, workers: int) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError(
                "--engine ray needs Ray: pip install 'reticent[ray]', or use --engine local"
            ) from None
        self._ray = ray
        options = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers}
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="ERROR", **options)

    def submit(self, job: Job) -> Future[Any]:
        # Failures are counted by `run_jobs`, on both engines alike.
        remote = self._ray.remote(num_cpus=1, max_retries=0)(job.call)
        future: Future[Any] = remote.remote(*job.arguments).future()
        return future

    def close(self) -> None:
        self._ray.shutdown()


def run_jobs(
    jobs: Sequence[Job],
    *,
    engine: str = "local",
    workers: int = 1,
    attempts: int = 3,
    show: Callable[[str], None] = lambda text: None,
) -> None:
    """Run all jobs that are not finished. Raises `ToolError` naming those that failed for good.

    A job that raises `UserError` is not tried again: it would fail the same way. Meanwhile SIGTERM
    raises `KeyboardInterrupt`, as SIGINT does, once the jobs have stopped.
    """
    if engine not in ENGINES:
        raise UserError(f"there is no engine {engine!r}: give {' or '.join(ENGINES)}")
    if workers < 1 or attempts < 1:
        raise UserError(f"{workers} workers and {attempts} attempts: give at least 1 of each")
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        raise ValueError("two jobs have one name")
    left = [job for job in jobs if not job.finished]
    if not left:
        return
    with _terminations():
        runner: Engine = _Local(workers) if engine == "local" else _Ray(workers)
        try:
            failed = _run(left, runner, workers, attempts, show)
        finally:
            runner.close()
    if failed:
        name, reason = next(iter(failed.items()))
        raise ToolError(
            f"{len(failed)} of {len(jobs)} jobs failed, first {name}: {reason}. What finished is "
            "kept: give the same command again"
        )


def _run(
    left: list[Job], runner: Engine, workers: int, attempts: int, show: Callable[[str], None]
) -> dict[str, str]:
    """Run the jobs that are `left`; returns why those that failed for good did."""
    failed: dict[str, str] = {}
    tries = dict.fromkeys((job.name for job in left), 0)
    # No more at once than there are workers: one that dies takes only these with it.
    running: dict[Future[Any], Job] = {}
    while left or running:
        while left and len(running) < workers:
            job = left.pop(0)
            tries[job.name] += 1
            running[runner.submit(job)] = job
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            job = running.pop(future)
            error = future.exception()
            if error is None:
                job.folder.mkdir(parents=True, exist_ok=True)
                write_file(job.marker, json.dumps(future.result()) + "\n")
                show(f"{job.name}: done")
                continue
            # Ray wraps what a job raised.
            cause = getattr(error, "cause", None) or error
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
            if isinstance(cause, UserError) or tries[job.name] == attempts:
                failed[job.name] = reason
                show(f"{job.name}: failed: {reason}")
            else:
                show(f"{job.name}: tried again after {reason}")
                left.append(job)
    return failed


@contextmanager
def _terminations() -> Iterator[None]:
    """Meanwhile SIGTERM raises `KeyboardInterrupt`; only the main thread can see to that."""

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def results(jobs: Sequence[Job]) -> list[Any]:
    """What all jobs returned; all must be finished."""
    return [job.result() for job in jobs]
