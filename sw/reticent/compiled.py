"""Compiled functions: the one place that says how numba is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit, typeof

__all__ = ["compiled", "direct", "inlined", "kernel"]

F = TypeVar("F")


def compiled(function: F) -> F:
    """Compile on the first call and keep the result on disk."""
    return njit(cache=True, error_model="numpy")(function)  # type: ignore[no-any-return]


def direct(function: Any, *arguments: Any) -> Callable[..., Any]:
    """What a `compiled` function is for arguments of exactly these types: it does not look their
    types up in every call, which takes a microsecond. Other types give undefined results."""
    types = tuple(typeof(argument) for argument in arguments)
    function.compile(types)
    return function.overloads[types].entry_point  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile as a part of each compiled function that calls it."""
    return njit(inline="always", error_model="numpy")(function)  # type: ignore[no-any-return]


def kernel(function: F) -> F:
    """Like `compiled`, for functions that make no arrays: no references are counted, which a
    function that looks at many arrays in turns would spend most of its time on."""
    return njit(cache=True, error_model="numpy", _nrt=False)(function)  # type: ignore[no-any-return]
