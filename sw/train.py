#!/usr/bin/env python3
"""Train an agent: see its --help."""

import sys

from reticent.training.commands import train

if __name__ == "__main__":
    sys.exit(train())
