"""The core as Verilog, with a JSON sidecar that says what a user of the Verilog must know."""

import json
from pathlib import Path

import amaranth
from amaranth import *
from amaranth.back import verilog
from amaranth.lib import memory, wiring

import reticent
from reticent.arithmetic import DELTA_BITS
from reticent.config import IMAGE_VERSION, BuildConfig
from reticent.layout import (
    DEVICE_ID,
    DEVICE_VERSION,
    INDEX_BITS,
    LANE_SHIFT,
    LOST_CAUSES,
    SPACE_SHIFT,
    Register,
    Space,
    row_fields,
    row_words,
)

from .axis import AXIS_TOP, axis_ports, axis_verilog
from .core import Core

__all__ = [
    "TOP",
    "VerilogPlatform",
    "component_verilog",
    "core_verilog",
    "shared_instance",
    "sidecar",
    "without_reset",
    "write_verilog",
]

TOP = "reticent_core"


class VerilogPlatform:
    """Makes the exported Verilog small: one module for all lanes, none for memory contents.

    Every memory becomes an instance of a module of `memories.v`; Amaranth would write each row's
    initial value into the Verilog: megabytes that say zero, that an ASIC cannot keep and that
    this design does not need. And Amaranth writes a module for each instance, so components that
    are alike go through `share`.
    """

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}

    def share(self, name: str, component: wiring.Component) -> Elaboratable:
        """An instance of the module `name`; the first component of that name defines it."""
        if name not in self.modules:
            self.modules[name] = _convert(component, name, self, missing_domain=without_reset)
        else:
            component._MustUse__used = True
        return shared_instance(name, component)

    def get_memory(self, rows: memory.Memory) -> Elaboratable:
        """Amaranth's hook for memories."""
        (write,) = rows.write_ports
        reads = rows.read_ports
        shape = Shape.cast(rows.shape)
        ports = {
            "i_clk": ClockSignal(write.domain),
            "i_write_en": write.en,
            "i_write_addr": write.addr,
            "i_write_data": write.data,
        }
        asynchronous = [port.domain == "comb" for port in reads]
        for i, port in enumerate(reads):
            if port.transparent_for or (asynchronous[i] and len(reads) > 1):
                raise ValueError("memories.v has no module with these ports")
            ports[f"i_read_{i}_addr"] = port.addr
            ports[f"o_read_{i}_data"] = port.data
            if not asynchronous[i]:
                ports[f"i_read_{i}_en"] = port.en
        kind = "async" if asynchronous[0] else f"{len(reads)}r"
        return Instance(
            f"reticent_memory_{kind}",
            p_WIDTH=shape.width,
            p_DEPTH=rows.depth,
            p_ADDRESS=max(1, len(write.addr)),
            **ports,
        )


def without_reset(name: str) -> ClockDomain:
    """The clock domain of a shared module; far away from others, it restarts by a port."""
    return ClockDomain(name, reset_less=True)


def shared_instance(name: str, component: wiring.Component) -> Instance:
    """An instance of the module `name` (converted `without_reset`) with a component's ports."""
    ports = {"i_clk": ClockSignal()}
    for path, member, value in component.signature.flatten(component):
        direction = "i" if member.flow == wiring.In else "o"
        ports[f"{direction}_{'__'.join(str(part) for part in path)}"] = value
    return Instance(name, **ports)


def _convert(elaboratable: Elaboratable, name: str, platform: VerilogPlatform, **ports) -> str:
    """Reproducible Verilog, free of paths."""
    return verilog.convert(
        elaboratable,
        name=name,
        platform=platform,
        emit_src=False,
        strip_internal_attrs=True,
        **ports,
    )


def component_verilog(
    component: Elaboratable, name: str, platform: VerilogPlatform | None = None, **ports
) -> str:
    """A component with all modules that it needs, in one Verilog text.

    `platform` decides what memories become (`VerilogPlatform`).
    """
    platform = platform or VerilogPlatform()
    text = _convert(component, name, platform, **ports)
    memories = Path(__file__).with_name("memories.v").read_text()
    return "\n".join([text, *platform.modules.values(), memories])


def core_verilog(core: Core, platform: VerilogPlatform | None = None) -> str:
    """The whole core in one Verilog text. Reproducible, free of paths."""
    m = Module()
    m.domains.sync = sync = ClockDomain()
    m.domains.entry = entry = ClockDomain(reset_less=True)
    sync.clk = entry.clk = Signal(name="clk")
    # The reset is registered, so that no logic depends on the pin directly.
    rst = Signal(name="rst")
    m.d.entry += sync.rst.eq(rst)
    m.submodules.core = core
    ports = [Value.cast(value) for _, _, value in core.signature.flatten(core)]
    return component_verilog(m, TOP, platform, ports=[sync.clk, rst, *ports])


def sidecar(core: Core) -> dict:
    """What a testbench, a wrapper or a driver needs to know of the Verilog, as JSON types."""
    config = core.config
    core._MustUse__used = True  # its ports are enough
    ports = []
    for path, member, value in core.signature.flatten(core):
        ports.append(
            {
                "name": "__".join(str(part) for part in path),
                "direction": "input" if member.flow.name == "In" else "output",
                "width": len(Value.cast(value)),
                "signed": Value.cast(value).shape().signed,
            }
        )
    clock = [{"name": n, "direction": "input", "width": 1, "signed": False} for n in ("clk", "rst")]
    return {
        "top": TOP,
        "versions": {
            "reticent": reticent.__version__,
            "amaranth": amaranth.__version__,
            "device": DEVICE_VERSION,
            "image": IMAGE_VERSION,
        },
        "config": config.to_dict(),
        "build_hash": config.hash,
        "device_id": DEVICE_ID,
        "ports": clock + ports,
        "axis": {"top": AXIS_TOP, "ports": axis_ports(clock + ports)},
        "handshake": "a word moves on a rising edge with valid and ready; valid never waits",
        "command": {
            "fields": {"data": [0, 31], "address": [32, 63], "write": [64, 64]},
            "address": {
                "index": [0, INDEX_BITS - 1],
                "lane": [LANE_SHIFT, SPACE_SHIFT - 1],
                "space": [SPACE_SHIFT, 31],
            },
        },
        "result": {
            "fields": {"data": [0, 31], "last": [32, 32]},
            "order": ["outputs", "layers x (events, significant, cycles)", "total", *LOST_CAUSES],
        },
        "registers": {r.name: int(r) for r in Register},
        "spaces": {
            s.name: {
                "number": int(s),
                "words": row_words(config, s),
                "fields": [
                    {"name": n, "bits": b, "signed": g} for n, b, g in row_fields(config, s)
                ],
            }
            for s in Space
            if s != Space.REGISTER
        },
        "latency": {
            "pixel": "one cycle, and one for each event of it after the first",
            "result": "stated by each result packet's total cycles",
        },
        "delta_bits": DELTA_BITS,
    }


def write_verilog(config: BuildConfig, folder: Path) -> tuple[Path, Path]:
    """Write `<TOP>.v` and `<TOP>.json` into `folder`; returns both paths.

    The Verilog has the core and a module around it with AXI4-Stream ports.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text, facts = folder / f"{TOP}.v", folder / f"{TOP}.json"
    core = Core(config)
    described = sidecar(core)
    text.write_text(core_verilog(core) + "\n" + axis_verilog(TOP, described["ports"]))
    facts.write_text(json.dumps(described, indent=2) + "\n")
    return text, facts
