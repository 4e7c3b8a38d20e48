"""What the co-simulation tests share."""

import pytest

from reticent.config import BuildConfig


@pytest.fixture(scope="session")
def roomy() -> BuildConfig:
    """A build that holds every random network: one model for many tests."""
    return BuildConfig.for_lanes(
        16, state_depth_odd=4096, state_depth_even=4096, pointer_depth=8192
    )
