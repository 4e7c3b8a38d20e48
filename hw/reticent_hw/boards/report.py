"""What the tools said about a build: area, timing, time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from reticent.boards import Device

__all__ = ["BuildReport", "cell_counts", "ecp5_report", "series7_cells", "series7_clocks"]


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Resources used of those there are, clocks in MHz, and how long each step took."""

    board: str
    device: str
    build: str  # hash
    lanes: int
    used: dict[str, tuple[int, int]]  # of: LUTs, flip-flops, block memories, multipliers
    clocks: dict[str, tuple[float, float]]  # achieved and wanted
    critical: list[dict[str, object]]  # of the slowest clock: what the path goes through
    seconds: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether every clock is known to be as fast as it must be."""
        return bool(self.clocks) and all(
            achieved >= wanted for achieved, wanted in self.clocks.values()
        )

    def to_json(self) -> str:
        """As a file."""
        return json.dumps({**asdict(self), "met": self.met}, indent=2) + "\n"

    def text(self) -> str:
        """As an aligned table."""
        lines = [f"{self.board}: {self.device}, {self.lanes} lanes, build {self.build}", ""]
        for name, (used, there) in self.used.items():
            lines.append(f"  {name:16}{used:8,} of {there:8,}  {used / there:6.1%}")
        for name, (achieved, wanted) in self.clocks.items():
            verdict = "met" if achieved >= wanted else "NOT met"
            lines.append(f"  {name:16}{achieved:8.1f} MHz, wanted {wanted:.1f}: {verdict}")
        for name, seconds in self.seconds.items():
            lines.append(f"  {name:16}{seconds:8,.0f} s")
        if self.critical:
            lines.append("  slowest path (ns, from the clock edge):")
            lines += [f"    {step['total']:6.2f}  {step['what']}" for step in self.critical]
        return "\n".join(lines)


def cell_counts(text: str) -> dict[str, int]:
    """Cells by type from the last statistics in a Yosys log."""
    part = text[text.rindex("Number of cells") if "Number of cells" in text else 0 :]
    if "Number of cells" not in text:
        part = text[text.rfind("=== ") :]
    found: dict[str, int] = {}
    for line in part.splitlines():
        match = re.fullmatch(r"\s+(\d+)\s+(\$?\w+)|\s+(\$?\w+)\s+(\d+)", line.rstrip())
        if match:
            count, name = (match[1], match[2]) if match[1] else (match[4], match[3])
            found[name] = int(count)
    return found


def series7_cells(counts: Mapping[str, int], device: Device) -> dict[str, tuple[int, int]]:
    """Resources of a 7-series device from Yosys' cells; block memories in units of 18 kbit."""
    memory_luts = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4,
                   "RAM256X1S": 4, "RAM128X1S": 2, "RAM64X1S": 1, "RAM32X1S": 1, "SRL16E": 1,
                   "SRLC32E": 1}  # fmt: skip
    luts = sum(count for name, count in counts.items() if re.fullmatch(r"LUT[1-6]", name))
    luts += sum(cost * counts.get(name, 0) for name, cost in memory_luts.items())
    flip_flops = sum(c for name, c in counts.items() if re.fullmatch(r"FD[RSCP]E(_1)?", name))
    blocks = counts.get("RAMB18E1", 0) + 2 * counts.get("RAMB36E1", 0)
    return {
        "LUTs": (luts, device.luts),
        "flip-flops": (flip_flops, device.flip_flops),
        "block memories": (blocks, device.rams),
        "multipliers": (counts.get("DSP48E1", 0), device.multipliers),
    }


def series7_clocks(folder: Path, wanted: float) -> dict[str, tuple[float, float]]:
    """What Vivado or nextpnr-xilinx say about the clocks, in MHz; `wanted` is the core's.

    Vivado's summary has one slack for all clocks; it counts for the core's. Empty when neither
    said anything.
    """
    summary = folder / "reticent_timing.rpt"  # by the name that Amaranth's script gives it
    if summary.exists():
        text = summary.read_text(errors="replace")
        found = re.search(r"^\s*WNS\(ns\).*\n[\s-]+\n\s*(-?\d+\.\d+)\s", text, re.MULTILINE)
        if found:
            return {"core": (round(1e3 / (1e3 / wanted - float(found[1])), 2), wanted)}
        return {}
    log = folder / "build.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    line = r"Max frequency for clock\s+'([^']+)':\s+([\d.]+) MHz \((?:PASS|FAIL) at ([\d.]+) MHz\)"
    # It says so after placement, too: the last word counts.
    return {name: (float(got), float(goal)) for name, got, goal in re.findall(line, text)}


def ecp5_report(
    folder: Path, device: Device, *, board: str, build: str, lanes: int,
    seconds: dict[str, float],
) -> BuildReport:  # fmt: skip
    """Read what nextpnr wrote in `report.json`."""
    found = json.loads((folder / "report.json").read_text())
    used = found["utilization"]

    def of(*cells: str) -> int:
        return sum(used.get(cell, {}).get("used", 0) for cell in cells)

    clocks = {
        _clock(net): (round(value["achieved"], 2), round(value["constraint"], 2))
        for net, value in found["fmax"].items()
    }
    slowest = min(found["fmax"], key=lambda net: found["fmax"][net]["achieved"], default=None)
    critical: list[dict[str, object]] = []
    for path in found.get("critical_paths", []):
        if slowest and path["from"].endswith(slowest) and path["to"].endswith(slowest):
            critical = _steps(path["path"])
            break
    return BuildReport(
        board=board,
        device=device.name,
        build=build,
        lanes=lanes,
        used={
            "LUTs": (of("TRELLIS_COMB"), device.luts),
            "flip-flops": (of("TRELLIS_FF"), device.flip_flops),
            "block memories": (of("DP16KD"), device.rams),
            "multipliers": (of("MULT18X18D"), device.multipliers),
        },
        clocks=clocks,
        critical=critical,
        seconds=seconds,
    )


def _clock(net: str) -> str:
    return net.replace("$glbnet$", "")


def _steps(path: list[dict]) -> list[dict[str, object]]:
    """One line for each place that a path goes through."""
    total, steps = 0.0, []
    for part in path:
        total += part["delay"]
        if part["type"] in ("clk-to-q", "logic", "setup"):
            cell = re.sub(r"_(LUT4|CCU2C|PFUMX|L6MUX21|TRELLIS_FF|COUT|CIN)\w*", "",
                          part["from"]["cell"])  # fmt: skip
            cell = re.sub(r"\$\w+$", "", cell)
            if steps and steps[-1]["what"] == cell:
                steps[-1]["total"] = round(total, 2)
            else:
                steps.append({"total": round(total, 2), "what": cell})
    return steps
