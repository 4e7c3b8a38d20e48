#!/usr/bin/env python3
"""A simulated board behind a pseudo-terminal: `reticent_sim.terminal`, see --help."""

import sys

from reticent_sim.terminal import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
