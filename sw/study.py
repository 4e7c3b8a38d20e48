#!/usr/bin/env python3
"""Measure pruned agents as the published study did: see its --help."""

import sys

from reticent.training.commands import study

if __name__ == "__main__":
    sys.exit(study())
