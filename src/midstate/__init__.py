"""midstate (中间态): train, prune and compare networks by the states they pass through.

Importing the package imports nothing heavy, so that `train.py --help` answers at once.
"""

__version__ = "0.1.0"
