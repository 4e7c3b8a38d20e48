"""The progress line of everything that takes long."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TimeElapsedColumn

__all__ = ["progress_line"]


def progress_line(*behind: str | ProgressColumn) -> Progress:
    """What is done, a bar, and what stands `behind` it (the time so far), on standard error while
    that is a terminal."""
    console = Console(stderr=True)
    return Progress(
        "{task.description}",
        BarColumn(),
        *(behind or (TimeElapsedColumn(),)),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
