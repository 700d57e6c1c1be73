"""The pruning algebra: a method is a composition of axes, each a small module of pure functions.

| axis       | answers                                     | modules              |
|------------|---------------------------------------------|----------------------|
| pattern    | what is pruned together, ranked among what  | `patterns`           |
| criterion  | which unit matters less                     | `criteria`           |
| allocation | how much goes from each layer               | `allocations`        |
| path       | the intermediate states (中间态) on the way | `paths`              |
| schedule   | how far along the path at a given time      | `schedules`          |
| update     | when a mask may change                      | `updates`            |
| estimator  | what forward and backward see               | `estimators`         |
| scope      | which tensors                               | `scope`              |
| penalty    | what is added to gradients before pruning   | `penalty`            |

All of them see a layer as `LayerView`; `observe` holds the measurements made for it.
Only `Pruner` has state. This package imports torch, scipy (in the solver only), and from midstate only `common`.
"""

from midstate.common.seeds import seed_for
from midstate.common.times import steps_of
from midstate.sparsity.allocations.base import Allocation
from midstate.sparsity.allocations.budget import Budget
from midstate.sparsity.allocations.controls import Collapsed, RandomShares, Reversed
from midstate.sparsity.allocations.domino import Domino
from midstate.sparsity.allocations.erk import ERK
from midstate.sparsity.allocations.extracted import OutOfReach
from midstate.sparsity.allocations.fitting import fit
from midstate.sparsity.allocations.global_ import Global
from midstate.sparsity.allocations.haq import HAQ, RandomSearch
from midstate.sparsity.allocations.lamp import LAMP
from midstate.sparsity.allocations.scheme import Scheme, scheme_text
from midstate.sparsity.allocations.uniform import Uniform
from midstate.sparsity.allocations.uniform_plus import UniformPlus
from midstate.sparsity.coupled import Coupled
from midstate.sparsity.criteria.base import Criterion
from midstate.sparsity.criteria.batchnorm_scale import BatchNormScale
from midstate.sparsity.criteria.geometric_median import GeometricMedian
from midstate.sparsity.criteria.l1 import L1
from midstate.sparsity.criteria.l2 import L2
from midstate.sparsity.criteria.obd import OBD
from midstate.sparsity.criteria.random import Random
from midstate.sparsity.criteria.taylor import Taylor
from midstate.sparsity.criteria.wanda import Wanda
from midstate.sparsity.estimators.base import Estimator
from midstate.sparsity.estimators.candidates import LearnedCombinations
from midstate.sparsity.estimators.constant_scale import ConstantScale
from midstate.sparsity.estimators.dense_gradient import DenseGradient
from midstate.sparsity.estimators.hard import Hard
from midstate.sparsity.estimators.hard_channels import HardChannels
from midstate.sparsity.estimators.multi_axis import MultiAxis, multi_axis_mask
from midstate.sparsity.estimators.s_ste import SSTE
from midstate.sparsity.estimators.soft import Soft
from midstate.sparsity.estimators.sr_ste import SRSTE
from midstate.sparsity.estimators.ste import STE
from midstate.sparsity.kernels.selection import Unrankable
from midstate.sparsity.layers import LayerView
from midstate.sparsity.method import Method
from midstate.sparsity.observe import Sample
from midstate.sparsity.paths.base import Path
from midstate.sparsity.paths.blocks import Blocks, block_nm_mask
from midstate.sparsity.paths.combinations import Combinations
from midstate.sparsity.paths.density import Density
from midstate.sparsity.paths.direct import Direct
from midstate.sparsity.paths.fade import Fade
from midstate.sparsity.paths.frames import Frames
from midstate.sparsity.paths.n import StepN, step_n
from midstate.sparsity.paths.search import Search
from midstate.sparsity.patterns.channel import Channel
from midstate.sparsity.patterns.filter import Filter
from midstate.sparsity.patterns.nm import NM, nm_mask, verify_nm
from midstate.sparsity.patterns.pattern import Pattern, verify
from midstate.sparsity.patterns.row import Row
from midstate.sparsity.patterns.weight import Weight
from midstate.sparsity.penalty import BatchNormL1, Penalty
from midstate.sparsity.pruner import Pruner
from midstate.sparsity.schedules import Schedule, Window, curve
from midstate.sparsity.scope import Scope
from midstate.sparsity.tensors import Layer, weight_layers
from midstate.sparsity.updates.drop_grow import DropGrow
from midstate.sparsity.updates.live import Update

Candidates = LearnedCombinations  # the name that configurations use, and so part of run identities

__all__ = [
    "ERK",
    "HAQ",
    "L1",
    "L2",
    "LAMP",
    "NM",
    "OBD",
    "SRSTE",
    "SSTE",
    "STE",
    "Allocation",
    "BatchNormL1",
    "BatchNormScale",
    "Blocks",
    "Budget",
    "Candidates",
    "Channel",
    "Collapsed",
    "Combinations",
    "ConstantScale",
    "Coupled",
    "Criterion",
    "DenseGradient",
    "Density",
    "Direct",
    "Domino",
    "DropGrow",
    "Estimator",
    "Fade",
    "Filter",
    "Frames",
    "GeometricMedian",
    "Global",
    "Hard",
    "HardChannels",
    "Layer",
    "LayerView",
    "LearnedCombinations",
    "Method",
    "MultiAxis",
    "OutOfReach",
    "Path",
    "Pattern",
    "Penalty",
    "Pruner",
    "Random",
    "RandomSearch",
    "RandomShares",
    "Reversed",
    "Row",
    "Sample",
    "Schedule",
    "Scheme",
    "Scope",
    "Search",
    "Soft",
    "StepN",
    "Taylor",
    "Uniform",
    "UniformPlus",
    "Unrankable",
    "Update",
    "Wanda",
    "Weight",
    "Window",
    "block_nm_mask",
    "curve",
    "fit",
    "multi_axis_mask",
    "nm_mask",
    "scheme_text",
    "seed_for",
    "step_n",
    "steps_of",
    "verify",
    "verify_nm",
    "weight_layers",
]  # fmt: skip
