"""Clock generators: the core's clock from the board's."""

from amaranth import *

from reticent.errors import UserError

__all__ = ["Ecp5Pll", "Series7Pll"]


class Ecp5Pll(Elaboratable):
    """An ECP5 PLL with its output fed back.

    `clk_in` to `clk_out`; `locked` once it is stable. Raises UserError for a frequency that no
    integer ratio gives.
    """

    VCO = (400e6, 800e6)  # Hz
    PHASE = 3.125e6  # Hz at the phase detector, at least

    def __init__(self, frequency_in: float, frequency_out: float):
        self.clk_in, self.clk_out, self.locked = (
            Signal(name=name) for name in ("clk_in", "clk_out", "locked")
        )
        self._ratio = self.ratio(frequency_in, frequency_out)

    @classmethod
    def ratio(cls, frequency_in: float, frequency_out: float) -> tuple[int, int, int]:
        """Dividers of input, feedback and output, in Hz: out = in * feedback / input."""
        settings = (
            (i, f, o)
            for i in range(1, 129)
            for f in range(1, 81)
            for o in range(1, 129)
            if frequency_in / i >= cls.PHASE
            and cls.VCO[0] <= frequency_in / i * f * o <= cls.VCO[1]
        )
        return _ratio(frequency_in, frequency_out, settings, lambda i, f, o: f / i)

    def elaborate(self, platform):
        divide_in, feedback, divide_out = self._ratio
        return Instance(
            "EHXPLLL",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=divide_out,
            p_CLKOP_CPHASE=divide_out // 2,
            p_CLKOP_FPHASE=0,
            p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=divide_in,
            p_CLKFB_DIV=feedback,
            i_RST=0,
            i_STDBY=0,
            i_CLKI=self.clk_in,
            i_CLKFB=self.clk_out,
            i_PHASESEL0=0,
            i_PHASESEL1=0,
            i_PHASEDIR=1,
            i_PHASESTEP=1,
            i_PHASELOADREG=1,
            i_PLLWAKESYNC=0,
            i_ENCLKOP=0,
            o_CLKOP=self.clk_out,
            o_LOCK=self.locked,
        )


class Series7Pll(Elaboratable):
    """A 7-series PLL; members as in `Ecp5Pll`."""

    VCO = (800e6, 1600e6)
    PHASE = 19e6

    def __init__(self, frequency_in: float, frequency_out: float):
        self.clk_in, self.clk_out, self.locked = (
            Signal(name=name) for name in ("clk_in", "clk_out", "locked")
        )
        self._frequency_in = frequency_in
        self._ratio = self.ratio(frequency_in, frequency_out)

    @classmethod
    def ratio(cls, frequency_in: float, frequency_out: float) -> tuple[int, int, int]:
        """Divider, multiplier, output divider, in Hz: out = in * multiplier / both dividers."""
        settings = (
            (i, f, o)
            for i in range(1, 11)
            for f in range(2, 65)
            for o in range(1, 129)
            if frequency_in / i >= cls.PHASE and cls.VCO[0] <= frequency_in / i * f <= cls.VCO[1]
        )
        return _ratio(frequency_in, frequency_out, settings, lambda i, f, o: f / i / o)

    def elaborate(self, platform):
        m = Module()
        divide_in, multiply, divide_out = self._ratio
        feedback, unbuffered = Signal(name="feedback"), Signal(name="unbuffered")
        m.submodules.pll = Instance(
            "PLLE2_BASE",
            p_CLKIN1_PERIOD=1e9 / self._frequency_in,
            p_DIVCLK_DIVIDE=divide_in,
            p_CLKFBOUT_MULT=multiply,
            p_CLKOUT0_DIVIDE=divide_out,
            i_CLKIN1=self.clk_in,
            i_CLKFBIN=feedback,
            i_RST=0,
            i_PWRDWN=0,
            o_CLKFBOUT=feedback,
            o_CLKOUT0=unbuffered,
            o_LOCKED=self.locked,
        )
        m.submodules.buffer = Instance("BUFG", i_I=unbuffered, o_O=self.clk_out)
        return m


def _ratio(frequency_in, frequency_out, settings, gain) -> tuple[int, int, int]:
    """The first of `settings` whose gain is exact: with the fastest phase detector."""
    for setting in settings:
        if abs(frequency_in * gain(*setting) - frequency_out) < 1:
            return setting
    raise UserError(
        f"no clock of {frequency_out / 1e6:g} MHz can be made from {frequency_in / 1e6:g} MHz: "
        "choose another, for example a multiple of 5 MHz"
    )
