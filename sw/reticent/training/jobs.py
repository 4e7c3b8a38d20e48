"""Independent resumable jobs on a process pool or a Ray cluster.

A job that returned leaves its result in `<folder>/done.json` and is never run again. One that
failed is tried again, a few times; the others go on meanwhile.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
        """Release it."""


class _Local:
    """One pool of processes on this machine."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = self._make()

    def submit(self, job: Job) -> Future[Any]:
        try:
            return self._pool.submit(job.call, *job.arguments)
        except BrokenProcessPool:  # a worker was killed: its jobs failed, a new pool goes on
            self._pool.shutdown(wait=False)
            self._pool = self._make()
            return self._pool.submit(job.call, *job.arguments)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _make(self) -> ProcessPoolExecutor:
        # A forked child would inherit the threads' locks of whatever ran before.
        return ProcessPoolExecutor(self._workers, multiprocessing.get_context("spawn"))


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
        import os

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

    A job that raises `UserError` is not tried again: it would fail the same way.
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
    runner: Engine = _Local(workers) if engine == "local" else _Ray(workers)
    failed: dict[str, str] = {}
    tries = dict.fromkeys(names, 0)
    try:
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
    finally:
        runner.close()
    if failed:
        name, reason = next(iter(failed.items()))
        raise ToolError(
            f"{len(failed)} of {len(jobs)} jobs failed, first {name}: {reason}. What finished is "
            "kept: give the same command again"
        )


def results(jobs: Sequence[Job]) -> list[Any]:
    """What all jobs returned; all must be finished."""
    return [job.result() for job in jobs]
