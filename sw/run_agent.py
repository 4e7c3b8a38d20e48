#!/usr/bin/env python3
"""Play an Atari game on the accelerator: `reticent play` under another name, see its --help."""

import sys

from reticent.cli import main

if __name__ == "__main__":
    sys.exit(main(["play", *sys.argv[1:]]))
