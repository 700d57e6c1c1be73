"""Quantisation: weights and inputs of layers in few bits, with the same allocations and schedules as pruning.

| axis       | answers                                              | modules      |
|------------|------------------------------------------------------|--------------|
| grid       | which values the weights of a layer may have         | `grids`      |
| estimator  | forward values and gradients of weights and inputs   | `estimators` |
| allocation | how many bits each layer gets                        | `midstate.sparsity.allocations`, `allocation` |
| path       | the bits between 32 and the target (中间态)          | `paths`      |
| scope      | which layers, and fixed bits of the first and last   | `scope`      |

Only `Quantizer` has state. This package imports torch and, of midstate, only `sparsity` and `common`.
"""

from midstate.quantization.allocation import BitScheme, Gates
from midstate.quantization.bits import Bits
from midstate.quantization.estimators.base import Estimator, Kind
from midstate.quantization.estimators.ddq import DDQ
from midstate.quantization.estimators.lsq import LSQ
from midstate.quantization.estimators.pact import PACT
from midstate.quantization.estimators.ste import STE
from midstate.quantization.grids.kmeans import KMeans
from midstate.quantization.grids.levels import Levels
from midstate.quantization.grids.uniform import Uniform
from midstate.quantization.latency import Latency
from midstate.quantization.method import Quantization
from midstate.quantization.modules import (
    drop_input_quantisers,
    follow,
    load_input_quantisers,
    without_input_quantisers,
)
from midstate.quantization.paths import Jump, StepBits
from midstate.quantization.quantizer import Quantizer
from midstate.quantization.scope import Scope

__all__ = [
    "DDQ",
    "LSQ",
    "PACT",
    "STE",
    "BitScheme",
    "Bits",
    "Estimator",
    "Gates",
    "Jump",
    "KMeans",
    "Kind",
    "Latency",
    "Levels",
    "Quantization",
    "Quantizer",
    "Scope",
    "StepBits",
    "Uniform",
    "drop_input_quantisers",
    "follow",
    "load_input_quantisers",
    "without_input_quantisers",
]
