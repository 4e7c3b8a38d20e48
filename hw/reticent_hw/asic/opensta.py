"""Timing and power of a netlist, by OpenSTA.

Power is asked for at an activity of nothing and of one transition a cycle, instance by instance:
it is linear in the activity, so what an instance takes at its own activity follows. That needs
nothing but global activities, which every version knows.

Versions differ in what they make of a Liberty file's internal energies: 2.0.17 counts those of the
rising and of the falling edge for each transition. So each is asked first what it makes of an
inverter whose energy is known.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reticent.errors import ToolError, UserError

from .macros import MacroLibrary
from .pdk import Pdk

__all__ = [
    "Power",
    "Timing",
    "instance_power",
    "internal_counted",
    "pin_capacitances",
    "timing",
    "version",
]

INSTALL = "apt-get install opensta"


@dataclass(frozen=True)
class Timing:
    """The slowest path: from and to (instances), its report, and the clock period in ns that it
    allows."""

    period_ns: float
    start: str
    end: str
    report: str


@dataclass(frozen=True)
class Power:
    """Of one instance, in W: at rest while its clock runs, and what a transition a cycle adds. The
    clock's own net is not in it."""

    rest: float
    active: float
    leakage: float


def _command() -> str:
    command = shutil.which("sta")
    if command is None:
        raise UserError(f"sta (OpenSTA) not found: {INSTALL}")
    return command


def version() -> str:
    """OpenSTA's version."""
    done = subprocess.run([_command(), "-version"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _setup(
    pdk: Pdk, macros: MacroLibrary, netlist: str, top: str, folder: Path, period_ns: float
) -> str:
    """Tcl that reads everything; writes the Liberty of generic macros into `folder`."""
    lines = [f"read_liberty {pdk.cells_lib}"]
    for name, macro in sorted(macros.used.items()):
        if isinstance(macro.liberty, str):
            (folder / f"{name}.lib").write_text(macro.liberty)
            lines.append(f"read_liberty {name}.lib")
        else:
            lines.append(f"read_liberty {macro.liberty}")
    lines += [f"read_verilog {netlist}", f"link_design {top}"]
    lines.append(f"create_clock -name clk -period {period_ns} [get_ports clk]")
    # What an input drives has no period otherwise, and an odd power.
    lines.append("foreach port [all_inputs] {")
    lines.append('  if {[get_name $port] != "clk"} { set_input_delay 0 -clock clk $port }')
    lines.append("}")
    if pdk.cells.wire_load:
        lines.append(f"set_wire_load_model -name {pdk.cells.wire_load}")
    return "\n".join(lines) + "\n"


def _run(script: str, folder: Path, name: str) -> str:
    (folder / f"{name}.tcl").write_text(script)
    done = subprocess.run(
        [_command(), "-exit", f"{name}.tcl"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    (folder / f"{name}.log").write_text(done.stdout)
    errors = [line for line in done.stdout.splitlines() if line.startswith("Error")]
    if done.returncode or errors:
        what = errors[0] if errors else f"it exited with {done.returncode}"
        raise ToolError(f"OpenSTA failed: {what} ({folder / name}.log)")
    return done.stdout


def timing(
    pdk: Pdk, macros: MacroLibrary, netlist: str, top: str, folder: Path, *, period_ns: float
) -> Timing:
    """The slowest path between registers and memories of `netlist`, a file in `folder`."""
    script = _setup(pdk, macros, netlist, top, folder, period_ns)
    text = _run(script + "report_checks -path_delay max -format full\n", folder, "timing")
    slack = re.search(r"(-?[\d.]+)\s+slack", text)
    if slack is None:
        raise ToolError(f"OpenSTA found no path in the design ({folder / 'timing.log'})")
    points = re.findall(r"^(?:Startpoint|Endpoint): (\S+)", text, re.MULTILINE)
    report = text[text.index("Startpoint") :].strip()
    return Timing(round(period_ns - float(slack[1]), 4), points[0], points[1], report)


def instance_power(
    pdk: Pdk, macros: MacroLibrary, netlist: str, top: str, folder: Path, *, period_ns: float
) -> dict[str, Power]:
    """Power of every leaf instance by its path ("core/lane_0/parts/_12_"), clock pins included in
    `rest`."""
    script = _setup(pdk, macros, netlist, top, folder, period_ns)
    marks = ("activity none", "activity one")
    for mark, activity in zip(marks, (0, 1), strict=True):
        script += f"""\
set_power_activity -global -activity {activity} -duty 0.5
puts "{mark}"
report_power -digits 6 -instances [get_cells -hierarchical *]
"""
    text = _run(script, folder, "power")
    times = internal_counted(folder)
    none, one = text[text.index(marks[0]) :].split(marks[1])
    quiet, busy = dict(_rows(none, times)), dict(_rows(one, times))
    return {
        name: Power(inside + leakage, sum(busy[name]) - inside - driven - leakage, leakage)
        for name, (inside, driven, leakage) in quiet.items()
    }


def pin_capacitances(
    pdk: Pdk, pins: Iterable[tuple[str, str]], folder: Path
) -> dict[tuple[str, str], float]:
    """Capacitance in pF of pins of the kit's cells, given as (cell, pin)."""
    asked = sorted(set(pins))
    lines = [f"read_liberty {pdk.cells_lib}", "set kit [get_name [lindex [get_libs *] 0]]"]
    for cell, pin in asked:
        found = f"[get_property [get_lib_pins $kit/{cell}/{pin}] capacitance]"
        lines.append(f'puts "capacitance {cell} {pin} {found}"')
    text = _run("\n".join(lines) + "\n", folder, "pins")
    said = re.findall(r"^capacitance (\S+) (\S+) ([\d.e+-]+)$", text, re.MULTILINE)
    capacitances = {(cell, pin): float(value) for cell, pin, value in said}
    for cell, pin in asked:
        if (cell, pin) not in capacitances:
            raise ToolError(f"OpenSTA says no capacitance of {cell}/{pin} ({folder / 'pins.log'})")
    return capacitances


def _rows(text: str, times: float) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """(instance, (internal, switching, leakage)) of a report that counts internal power so many
    times."""
    for line in text.splitlines():
        cells: Sequence[str] = line.split()
        if len(cells) == 5 and re.match(r"[-\d.]", cells[0]) and re.match(r"[-\d.]", cells[3]):
            internal, switching, leakage = (float(cell) for cell in cells[:3])
            # A macro's name may have been put together from its own and those above it.
            yield cells[4].replace(".", "/"), (internal / times, switching, leakage)


# An inverter that takes 1 pJ for each transition of its output.
KNOWN_PJ, KNOWN_NS = 1.0, 1.0
KNOWN_CELL = """library (known) {
  delay_model : table_lookup; time_unit : "1ns"; voltage_unit : "1V"; current_unit : "1uA";
  leakage_power_unit : "1nW"; pulling_resistance_unit : "1kohm"; capacitive_load_unit (1, pf);
  nom_voltage : 1.0; nom_process : 1; nom_temperature : 25;
  operating_conditions (typ) { process : 1; voltage : 1.0; temperature : 25; }
  default_operating_conditions : typ;
  input_threshold_pct_rise : 50; input_threshold_pct_fall : 50;
  output_threshold_pct_rise : 50; output_threshold_pct_fall : 50;
  slew_lower_threshold_pct_rise : 20; slew_lower_threshold_pct_fall : 20;
  slew_upper_threshold_pct_rise : 80; slew_upper_threshold_pct_fall : 80;
  lu_table_template (delay) {
    variable_1 : total_output_net_capacitance; variable_2 : input_net_transition;
    index_1 ("0.001, 1"); index_2 ("0.001, 1");
  }
  power_lut_template (energy) {
    variable_1 : total_output_net_capacitance; variable_2 : input_transition_time;
    index_1 ("0.001, 1"); index_2 ("0.001, 1");
  }
  cell (KNOWN) {
    area : 1;
    pin (A) { direction : input; capacitance : 0; }
    pin (Y) {
      direction : output; function : "(!A)";
      internal_power () {
        related_pin : "A";
        rise_power (energy) { values ("1, 1", "1, 1"); }
        fall_power (energy) { values ("1, 1", "1, 1"); }
      }
      timing () {
        related_pin : "A"; timing_sense : negative_unate;
        cell_rise (delay) { values ("0.1, 0.1", "0.1, 0.1"); }
        cell_fall (delay) { values ("0.1, 0.1", "0.1, 0.1"); }
        rise_transition (delay) { values ("0.1, 0.1", "0.1, 0.1"); }
        fall_transition (delay) { values ("0.1, 0.1", "0.1, 0.1"); }
      }
    }
  }
}
"""
KNOWN_SCRIPT = f"""read_liberty known.lib
read_verilog known.v
link_design known
create_clock -name clk -period {KNOWN_NS} [get_ports clk]
set_input_delay 0 -clock clk [get_ports a]
set_power_activity -global -activity 1 -duty 0.5
report_power -digits 6 -instances [get_cells *]
"""


def internal_counted(folder: Path) -> float:
    """How many times the true internal power OpenSTA reports."""
    (folder / "known.lib").write_text(KNOWN_CELL)
    (folder / "known.v").write_text(
        "module known(clk, a, y); input clk, a; output y; KNOWN i (.A(a), .Y(y)); endmodule\n"
    )
    rows = dict(_rows(_run(KNOWN_SCRIPT, folder, "known"), 1.0))
    if "i" not in rows or sum(rows["i"]) <= 0:
        raise ToolError(f"OpenSTA reports no power of a known cell ({folder / 'known.log'})")
    return sum(rows["i"]) / (KNOWN_PJ * 1e-12 / (KNOWN_NS * 1e-9))
