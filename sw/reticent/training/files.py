"""Files of a run: written whole or not at all, read without trusting them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from ..errors import UserError

__all__ = ["load_checkpoint", "save_checkpoint", "save_tensors", "write_file"]


def write_file(path: Path, content: bytes | str) -> None:
    """Replace a file in one step: a reader, or a crash, sees the old content or the new one.

    Raises `UserError` when it cannot be written (no space, no rights); the old content stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): what was there before is kept; "
            "make room or name another folder"
        ) from None


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values for `load_checkpoint`."""
    packed = io.BytesIO()
    torch.save(dict(content), packed)
    write_file(path, packed.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed. Raises `UserError` for a damaged one."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"checkpoint {path} does not exist: name a run that has one") from None
    except Exception as error:  # whatever torch, zipfile or its restricted reader raise
        raise UserError(
            f"checkpoint {path} is damaged or holds more than tensors ({type(error).__name__}): "
            "take another, or remove it and start again"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"checkpoint {path} holds a {type(content).__name__}: it is none of ours")
    return content


def save_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write the network's tensors as safetensors, which `reticent import` reads."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, safetensors_bytes(plain))
