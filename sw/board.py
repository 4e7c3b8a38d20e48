#!/usr/bin/env python3
"""Look at a board, load it, test it: `reticent board` under another name, see its --help."""

import sys

from reticent.cli import main

if __name__ == "__main__":
    sys.exit(main(["board", *sys.argv[1:]]))
