"""What the co-simulation tests share."""

import pytest

from reticent.config import BuildConfig

DEPTHS = {
    "state_depth_odd": 4096,
    "state_depth_even": 4096,
    "pointer_depth": 16384,
    "weight_depth": 32768,
}


@pytest.fixture(scope="session")
def roomy() -> BuildConfig:
    """A build that holds every random network, however it is folded: one model for many tests."""
    return BuildConfig.for_lanes(16, **DEPTHS)


@pytest.fixture(scope="session")
def two_streams() -> BuildConfig:
    """The same memories in few lanes, with two events a cycle."""
    return BuildConfig.for_lanes(6, streams=2, requantisers=2, relative_bits=13, **DEPTHS)


@pytest.fixture(scope="session")
def four_streams() -> BuildConfig:
    """Four events a cycle."""
    return BuildConfig.for_lanes(16, streams=4, **DEPTHS)
