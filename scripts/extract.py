"""Remove a finished run's dead filters for real: `python scripts/extract.py --help`."""

import sys

from midstate.extraction.cli import main

if __name__ == "__main__":
    sys.exit(main())
