"""`reticent asic` and `asic-handoff` with bad input: one clear line each."""

import shutil

import pytest

from reticent.cli import main

pytest.importorskip("liberty", reason="needs the extra `asic`")


@pytest.fixture(autouse=True)
def no_kit(monkeypatch):
    monkeypatch.delenv("PDK_ROOT", raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--pdk", "tsmc"],
            "PDK 'tsmc' is not known: give one of gf180, ihp-sg13g2, osu018, sky130",
        ),
        (["--pdk", "sky130"], "PDK sky130 was not found: PDK_ROOT is not set: pip install ciel"),
        (
            ["--pdk", "ihp-sg13g2", "--pdk-root", "/nowhere"],
            "/nowhere/ihp-sg13g2 is missing: clone",
        ),
        (["--frames", "4"], "--frames 4: give 0, or at least 5"),
        (["--lanes", "0"], "lanes is 0: give a whole number from 1 to 64"),
        (
            ["--lanes", "2", "--config", "x.json"],
            "--lanes 2 and --config x.json: leave one of them out",
        ),
    ],
)
def test_refused_in_one_line(arguments, said, osu_root, capsys):
    root = (
        [] if "--pdk-root" in arguments or "--pdk" in arguments else ["--pdk-root", str(osu_root)]
    )
    assert main(["asic", *arguments, *root]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_period_is_checked(osu_root, capsys):
    assert main(["asic", "--period", "0", "--pdk-root", str(osu_root)]) == 2
    assert "--period 0: give a number of ns above 0" in capsys.readouterr().err


def test_lanes_that_macros_cannot_serve(ihp_root, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/bin/{name}")
    monkeypatch.setattr("reticent_hw.asic.opensta.version", lambda: "2.0.17")
    arguments = ["--pdk", "ihp-sg13g2", "--pdk-root", str(ihp_root), "--lanes", "1"]
    arguments += ["--set", "weight_depth=262144", "-o", str(tmp_path), "--frames", "0"]
    assert main(["asic", *arguments]) == 2
    assert "takes more than 32 macros" in capsys.readouterr().err


def test_missing_opensta(osu_root, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert main(["asic", "--pdk-root", str(osu_root), "-o", str(tmp_path)]) == 2
    assert "sta (OpenSTA) not found: apt-get install opensta" in capsys.readouterr().err


def test_kit_without_macros_cannot_be_handed_off(osu_root, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("reticent_hw.asic.synthesis.synthesise", lambda *_, **__: {})
    arguments = ["--pdk", "osu018", "--pdk-root", str(osu_root), "-o", str(tmp_path)]
    assert main(["asic-handoff", *arguments]) == 2
    assert "osu018 has no SRAM macros that could be laid out" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["asic", "asic-handoff", "asic-layout"])
def test_folder_that_cannot_be_made(command, osu_root, capsys, monkeypatch, tmp_path):
    if command == "asic-layout":
        pytest.importorskip("klayout", reason="needs the extra `layout`")
        monkeypatch.setattr(shutil, "which", lambda name, **_: f"/bin/{name}")
    monkeypatch.setattr("reticent_hw.asic.opensta.version", lambda: "2.0.17")
    monkeypatch.setattr("reticent_hw.asic.handoff.check_layout", lambda _: None)
    (tmp_path / "file").touch()
    arguments = ["--pdk", "osu018", "--pdk-root", str(osu_root), "-o", str(tmp_path / "file" / "x")]
    assert main([command, *arguments]) == 2
    error = capsys.readouterr().err
    assert "cannot be written (Not a directory): give another folder with -o" in error
    assert error.count("\n") == 1
