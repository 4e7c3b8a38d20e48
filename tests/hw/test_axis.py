"""The AXI4-Stream module of the exported Verilog, linted and simulated in the example's top."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from reticent.config import BuildConfig
from reticent_hw.axis import AXIS_TOP
from reticent_hw.export import write_verilog
from reticent_sim.build import WARNINGS, toolchain_environment

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "example" / "top.v"

MAIN = """
#include "Vtop.h"
#include "verilated.h"
#include <cstdio>

int main() {
  VerilatedContext context;
  Vtop top(&context);
  int cycles = 0;
  for (; cycles < 200 && !top.done; ++cycles) {
    top.resetn = cycles > 5;
    top.clk = 1; top.eval();
    top.clk = 0; top.eval();
  }
  std::printf("done %d alive %d after %d\\n", top.done, top.alive, cycles);
  top.final();
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("axis")
    write_verilog(BuildConfig(lanes=2, weight_depth=64, pointer_depth=64), path)
    return path


def verilator(folder, *arguments):
    return subprocess.run(
        ["verilator", *arguments],
        cwd=folder,
        env=toolchain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_ports_are_those_of_the_sidecar(folder):
    text = (folder / "reticent_core.v").read_text()
    facts = json.loads((folder / "reticent_core.json").read_text())["axis"]
    module = re.search(rf"^module {AXIS_TOP} \((.*?)\);", text, re.M | re.S)[1]
    found = re.findall(r"(input|output) (?:\[(\d+):0\] )?(\w+)", module)
    assert facts["top"] == AXIS_TOP
    assert [(p["direction"], p["width"], p["name"]) for p in facts["ports"]] == [
        (direction, int(high or 0) + 1, name) for direction, high, name in found
    ]
    widths = {p["name"]: p["width"] for p in facts["ports"]}
    assert widths["s_axis_command_tdata"] == 72
    assert widths["s_axis_pixel_tdata"] == 16
    assert widths["m_axis_result_tdata"] == 32


def test_lint(folder):
    """All warnings, but for those about the style of generated Verilog."""
    quiet = ("-Wno-DECLFILENAME", "-Wno-UNUSEDSIGNAL", "-Wno-MULTITOP", "-Wno-UNDRIVEN")
    done = verilator(
        folder, "--lint-only", "-Wall", *WARNINGS, *quiet, "--top-module", AXIS_TOP,
        "reticent_core.v",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_example_works(folder):
    (folder / "main.cpp").write_text(MAIN)
    done = verilator(
        folder, "--cc", "--exe", "--build", "-O1", *WARNINGS, "--top-module", "top", "--Mdir",
        "obj", "-CFLAGS", "-O0", str(EXAMPLE), "reticent_core.v", "main.cpp",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ran = subprocess.run([folder / "obj" / "Vtop"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"done 1 alive 1 after \d+\n", ran.stdout)
