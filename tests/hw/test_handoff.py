"""The LibreLane project, up to LibreLane's own check of it."""

import json
import shutil
from pathlib import Path

import pytest

from reticent.errors import ToolError, UserError
from reticent_hw.asic.builds import silicon_build
from reticent_hw.asic.design import chip_verilog
from reticent_hw.asic.handoff import check_project, place_macros, write_project
from reticent_hw.asic.macros import MacroLibrary
from reticent_hw.asic.pdk import find_pdk
from reticent_hw.asic.synthesis import Module

pytest.importorskip("liberty", reason="needs the extra `asic`")

CONFIG = silicon_build(2, weight_depth=4096, state_depth_even=512, state_depth_odd=512)
CELLS = {"core": Module("reticent_chip.core", 1, 10, 600_000.0, 1, 0, {})}


@pytest.fixture(scope="module")
def kit(ihp_root, tmp_path_factory):
    """The kit with sizes of its macros, and with LibreLane's part of it."""
    root = tmp_path_factory.mktemp("kit")
    shutil.copytree(ihp_root / "ihp-sg13g2", root / "ihp-sg13g2")
    pdk = find_pdk("ihp-sg13g2", root=root)
    for library in pdk.macro_libs:
        name = library.name.removesuffix("_typ_1p20V_25C.lib")
        for view, text in (("lef", "MACRO x\n  SIZE 250.5 BY 120 ;\nEND x\n"), ("gds", "")):
            path = pdk.root / pdk.layout[f"macro_{view}"].format(name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    tech = pdk.root / "libs.tech/librelane"
    (tech / "sg13g2_stdcell").mkdir(parents=True)
    (tech / "config.tcl").write_text('set ::env(STD_CELL_LIBRARY) "sg13g2_stdcell"\n')
    shutil.copy(Path(__file__).with_name("librelane_kit.tcl"), tech / "sg13g2_stdcell/config.tcl")
    return pdk


@pytest.fixture(scope="module")
def project(kit, tmp_path_factory):
    macros = MacroLibrary(kit)
    verilog = chip_verilog(CONFIG, macros, clock_hz=100_000_000)
    folder = tmp_path_factory.mktemp("project")
    return write_project(CONFIG, verilog, CELLS, kit, macros, folder, period_ns=8.0)


def test_every_macro_has_a_place_of_its_own(project, kit):
    facts = json.loads(project.read_text())
    corners = [
        (*instance["location"], path)
        for macro in facts["MACROS"].values()
        for path, instance in macro["instances"].items()
    ]
    verilog = (project.parent / "src/reticent_chip.v").read_text()
    in_lane = verilog[verilog.index("module reticent_lane(") :].count("  RM_IHPSG13_")
    outside = verilog[: verilog.index("module reticent_lane(")].count("  RM_IHPSG13_")
    assert len(corners) == outside + CONFIG.lanes * in_lane
    assert "core.lane_1.parts.weights.memory.memory.macro_0_0" in {path for *_, path in corners}
    _, _, width, height = facts["DIE_AREA"]
    for i, (x, y, path) in enumerate(corners):
        assert x >= 0, path
        assert x + 250.5 <= width, path
        assert y + 120 <= height, path
        for other_x, other_y, other in corners[:i]:
            assert abs(x - other_x) >= 250.5 or abs(y - other_y) >= 120, (path, other)
    # Below the macros there is room for the cells.
    assert min(y for _, y, _ in corners) * width > 600_000
    assert len(facts["PDN_MACRO_CONNECTIONS"]) == 2 * len(corners)


# LibreLane leaves the files open that it reads.
LEAVES_FILES_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@LEAVES_FILES_OPEN
def test_librelane_accepts_it(project, kit):
    pytest.importorskip("librelane", reason="needs the extra `handoff`")
    assert check_project(project, kit)[0].isdigit()


@LEAVES_FILES_OPEN
def test_librelane_refuses_a_damaged_one(project, kit, tmp_path):
    pytest.importorskip("librelane", reason="needs the extra `handoff`")
    shutil.copytree(project.parent, tmp_path / "p")
    (tmp_path / "p/src/reticent_chip.v").unlink()
    with pytest.raises(ToolError, match=r"LibreLane [\d.]+ refuses .*VERILOG_FILES"):
        check_project(tmp_path / "p/config.json", kit)


def test_kits_without_macros_are_refused(osu_root, tmp_path):
    pdk = find_pdk("osu018", root=osu_root)
    with pytest.raises(UserError, match="osu018 has no SRAM macros"):
        write_project(CONFIG, "", {}, pdk, MacroLibrary(pdk), tmp_path, period_ns=8.0)


def test_macro_without_size_is_refused(kit, tmp_path):
    macros = MacroLibrary(kit)
    verilog = chip_verilog(CONFIG, macros, clock_hz=100_000_000)
    broken = kit.root / kit.layout["macro_lef"].format(next(iter(macros.used)))
    text = broken.read_text()
    broken.write_text("MACRO x\nEND x\n")
    with pytest.raises(ToolError, match="does not say how large"):
        write_project(CONFIG, verilog, CELLS, kit, macros, tmp_path, period_ns=8.0)
    broken.write_text(text)


def test_no_macros_at_all():
    placed = place_macros({}, {}, 100.0)
    assert placed.corners == {}
    assert placed.width * placed.height > 100
