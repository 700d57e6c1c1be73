"""Run the article's claims, judge them, and write the report: `python scripts/reproduce.py --help`."""

import sys

from midstate.study.command import main

if __name__ == "__main__":
    sys.exit(main())
