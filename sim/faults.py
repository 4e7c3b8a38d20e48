#!/usr/bin/env python3
"""Faults between driver and simulated board: `reticent_sim.faults`, see --help."""

import sys

from reticent_sim.faults import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
