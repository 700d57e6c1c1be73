"""The pruning algebra: a method is a composition of axes, each a small module of pure functions.

| axis       | answers                                    | modules                                       |
|------------|--------------------------------------------|-----------------------------------------------|
| pattern    | what goes together, among which is ranked  | `patterns`, `nm`                              |
| criterion  | which unit matters less                    | `criteria`                                    |
| allocation | how much goes from each layer              | `allocation`, `ranking`, `budget`, `domino`, ... |
| path       | the intermediate states (中间态) on the way | `paths`, `nm_paths`, `frames`, `combinations` |
| schedule   | how far along the path at a given time     | `schedules`                                   |
| update     | when a mask may change                     | `updates`, `drop_grow`                        |
| estimator  | what forward and backward see              | `estimators`, `scaling`, `candidates`         |
| scope      | which tensors                              | `scope`                                       |
| penalty    | what gradients gain before pruning begins  | `penalties`                                   |

Only `Pruner` has state. This package imports torch, scipy where it solves, and nothing of the rest of midstate.
"""

from midstate.common.seeds import seed_for
from midstate.common.times import steps_of
from midstate.sparsity.allocation import ERK, Allocation, Candidate, Uniform, UniformPlus, fit
from midstate.sparsity.budget import Budget
from midstate.sparsity.calibration import Sample
from midstate.sparsity.candidates import Candidates
from midstate.sparsity.combinations import Combinations
from midstate.sparsity.controls import Collapsed, RandomShares, Reversed
from midstate.sparsity.criteria import L1, L2, BatchNormScale, Criterion, GeometricMedian, Random, Seen, Wanda
from midstate.sparsity.domino import Domino
from midstate.sparsity.drop_grow import DropGrow
from midstate.sparsity.estimators import SRSTE, STE, DenseGradient, Estimator, Hard, HardChannels, Soft
from midstate.sparsity.frames import Frames
from midstate.sparsity.method import Method
from midstate.sparsity.multi_axis import multi_axis_mask
from midstate.sparsity.nm import NM, nm_mask, verify_nm
from midstate.sparsity.nm_paths import Blocks, Search, StepN, block_nm_mask, step_n
from midstate.sparsity.paths import Density, Direct, Fade, Path, Place
from midstate.sparsity.patterns import Filter, Pattern, Row, Weight, verify
from midstate.sparsity.penalties import BatchNormL1, Penalised, Penalty
from midstate.sparsity.pruner import Pruner
from midstate.sparsity.ranking import LAMP, Global
from midstate.sparsity.scaling import SSTE, ConstantScale, MultiAxis
from midstate.sparsity.schedules import Schedule, Window, curve
from midstate.sparsity.scheme import Scheme, scheme_text
from midstate.sparsity.scope import Layer, Scope, weight_layers
from midstate.sparsity.selection import Unrankable
from midstate.sparsity.updates import Update

__all__ = [
    "ERK", "L1", "L2", "LAMP", "NM", "SRSTE", "SSTE", "STE", "Allocation", "BatchNormL1", "BatchNormScale",
    "Blocks", "Budget", "Candidate", "Candidates", "Collapsed", "Combinations", "ConstantScale", "Criterion",
    "DenseGradient", "Density", "Direct", "Domino", "DropGrow", "Estimator", "Fade", "Filter", "Frames",
    "GeometricMedian", "Global", "Hard", "HardChannels", "Layer", "Method", "MultiAxis", "Path", "Pattern",
    "Penalised", "Penalty", "Place", "Pruner", "Random", "RandomShares", "Reversed", "Row", "Sample", "Schedule",
    "Scheme", "Scope", "Search", "Seen", "Soft", "StepN", "Uniform", "UniformPlus", "Unrankable", "Update",
    "Wanda", "Weight", "Window", "block_nm_mask", "curve", "fit", "multi_axis_mask", "nm_mask", "scheme_text",
    "seed_for", "step_n", "steps_of", "verify", "verify_nm", "weight_layers",
]  # fmt: skip
