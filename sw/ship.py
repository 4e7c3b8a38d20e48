#!/usr/bin/env python3
"""Make an agent file of trained weights: see its --help."""

import sys

from reticent.training.commands import ship

if __name__ == "__main__":
    sys.exit(ship())
