#!/usr/bin/env python3
"""Prune an agent in rounds: see its --help."""

import sys

from reticent.training.commands import lottery

if __name__ == "__main__":
    sys.exit(lottery())
