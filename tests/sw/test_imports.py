"""What drives a board is light: neither torch nor gateware nor a compiler is imported."""

import subprocess
import sys

import pytest

HEAVY = ("amaranth", "cocotb", "gymnasium", "numba", "torch")


@pytest.mark.parametrize(
    "module",
    ["accelerator", "arithmetic", "backend", "config", "errors", "image", "layout"],
)
def test_module_imports_nothing_heavy(module):
    script = f"import reticent.{module}, sys; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
