"""One module for components that are alike, also in the netlist of a board."""

from amaranth import *
from amaranth.back import rtlil
from amaranth.lib import wiring

from ..export import shared_instance, without_reset
from .memories import PIECE

__all__ = ["SharedModules"]


class SharedModules:
    """A part of a platform whose Yosys synthesises such a module once, and by itself.

    So synthesis is quick, and registers of two instances stay two, although their contents are the
    same: each has its place beside what it drives. Instances are dissolved in the netlist.
    """

    def share(self, name: str, component: wiring.Component) -> Elaboratable:
        """An instance of the module `name`; the first component of that name defines it."""
        file = f"{name}.il"
        if file in self.extra_files:
            component._MustUse__used = True
        else:
            text = rtlil.convert(
                component,
                name=name,
                platform=self,
                emit_src=False,
                missing_domain=without_reset,
            )
            self.add_file(file, text)
        return shared_instance(name, component)

    def yosys_scripts(self) -> dict[str, str]:
        """Amaranth's overrides for it."""
        return {
            "script_after_read": "setattr -mod -set keep_hierarchy 1 reticent_lane\n"
            f"setparam -set COLLISION_X_MASK 1'1 */r:MEMID=*{PIECE}_* */t:$memrd_v2 %i",
            "script_after_synth": "setattr -mod -unset keep_hierarchy reticent_lane\nflatten\nstat",
        }
