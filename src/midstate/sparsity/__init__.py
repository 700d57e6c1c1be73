"""The pruning algebra: a method is a composition of axes, each a small module of pure functions.

| axis       | answers                                    | module        |
|------------|--------------------------------------------|---------------|
| pattern    | what goes together, among which is ranked  | `patterns`    |
| criterion  | which unit matters less                    | `criteria`    |
| allocation | how much goes from each layer              | `allocation`  |
| path       | the intermediate states (中间态) on the way | `paths`       |
| schedule   | how far along the path at a given time     | `schedules`   |
| update     | when a mask may change                     | `updates`     |
| estimator  | what forward and backward see              | `estimators`  |
| scope      | which tensors                              | `scope`       |

Only `Pruner` has state. This package imports torch and nothing of the rest of midstate.
"""

from midstate.sparsity.allocation import Uniform
from midstate.sparsity.criteria import L1
from midstate.sparsity.estimators import SRSTE, STE, Hard
from midstate.sparsity.paths import Blocks, Direct, StepN, block_nm_mask, step_n
from midstate.sparsity.patterns import NM, nm_mask, verify_nm
from midstate.sparsity.pruner import Method, Pruner, seed_for
from midstate.sparsity.schedules import Schedule, Window, curve, steps_of
from midstate.sparsity.scope import Layer, Scope, weight_layers
from midstate.sparsity.updates import Update

__all__ = [
    "L1",
    "NM",
    "SRSTE",
    "STE",
    "Blocks",
    "Direct",
    "Hard",
    "Layer",
    "Method",
    "Pruner",
    "Schedule",
    "Scope",
    "StepN",
    "Uniform",
    "Update",
    "Window",
    "block_nm_mask",
    "curve",
    "nm_mask",
    "seed_for",
    "step_n",
    "steps_of",
    "verify_nm",
    "weight_layers",
]
