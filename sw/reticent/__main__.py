"""`python -m reticent` is the command `reticent`."""

import sys

from .cli import main

sys.exit(main())
