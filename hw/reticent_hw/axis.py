"""The core's four streams as AXI4-Stream: a Verilog module around the exported one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["AXIS_TOP", "axis_ports", "axis_verilog"]

AXIS_TOP = "reticent_axis"

# Of each stream: its name in AXI4-Stream, and the side that the core is on.
STREAMS = {
    "commands": ("s_axis_command", "slave"),
    "pixels": ("s_axis_pixel", "slave"),
    "replies": ("m_axis_reply", "master"),
    "results": ("m_axis_result", "master"),
}


def axis_ports(ports: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The wrapper's ports, from those of the core as its sidecar lists them.

    TDATA is the payload with zeros above it up to a whole byte; the last word of a result packet
    has TLAST instead of the payload's bit 32.
    """
    widths = {port["name"]: port["width"] for port in ports}
    found = [_port("aclk", "input", 1), _port("aresetn", "input", 1)]
    for name, (axis, side) in STREAMS.items():
        given, taken = ("input", "output") if side == "slave" else ("output", "input")
        bits = widths[f"{name}__payload"] - (name == "results")
        found += [
            _port(f"{axis}_tdata", given, -(-bits // 8) * 8),
            _port(f"{axis}_tvalid", given, 1),
            _port(f"{axis}_tready", taken, 1),
        ]
        if name == "results":
            found.append(_port(f"{axis}_tlast", given, 1))
    return found


def _port(name: str, direction: str, width: int) -> dict[str, Any]:
    return {"name": name, "direction": direction, "width": width, "signed": False}


def axis_verilog(top: str, ports: list[Mapping[str, Any]]) -> str:
    """The wrapper's text; `top` and `ports` are the core's."""
    widths = {port["name"]: port["width"] for port in ports}
    outside = axis_ports(ports)
    declared = ",\n".join(
        f"  {port['direction']} "
        + (f"[{port['width'] - 1}:0] " if port["width"] > 1 else "")
        + port["name"]
        for port in outside
    )
    # The core registers its reset, so it takes nothing until two edges after the end of this one.
    wires = [
        "  reg [1:0] awake;",
        "  always @(posedge aclk) awake <= aresetn ? {awake[0], 1'b1} : 2'b0;",
    ]
    pins = [".clk(aclk)", ".rst(!aresetn)"]
    for name, (axis, side) in STREAMS.items():
        bits = widths[f"{name}__payload"]
        if side == "slave":
            payload = f"{axis}_tdata[{bits - 1}:0]"
        else:
            payload = f"{name}_payload"
            wires.append(f"  wire [{bits - 1}:0] {payload};")
            width = next(p["width"] for p in outside if p["name"] == f"{axis}_tdata")
            data = bits - (name == "results")
            zeros = f"{{{width - data}'d0, {payload}[{data - 1}:0]}}" if width > data else None
            wires.append(f"  assign {axis}_tdata = {zeros or f'{payload}[{data - 1}:0]'};")
            if name == "results":
                wires.append(f"  assign {axis}_tlast = {payload}[{bits - 1}];")
        wires.append(f"  wire {name}_valid, {name}_ready;")
        for end in ("valid", "ready"):
            outward = (end == "valid") == (side == "master")
            outside_, inside = f"{axis}_t{end}", f"{name}_{end}"
            ends = (outside_, inside) if outward else (inside, outside_)
            wires.append(f"  assign {ends[0]} = {ends[1]} && awake[1];")
        pins += [
            f".{name}__payload({payload})",
            f".{name}__valid({name}_valid)",
            f".{name}__ready({name}_ready)",
        ]
    return (
        f"// The core with AXI4-Stream ports. TDATA above a stream's payload is ignored or zero.\n"
        f"module {AXIS_TOP} (\n{declared}\n);\n"
        + "\n".join(wires)
        + f"\n  {top} core (\n    "
        + ",\n    ".join(pins)
        + "\n  );\nendmodule\n"
    )
