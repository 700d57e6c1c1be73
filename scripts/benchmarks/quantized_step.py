"""quantized_step: what a training step with each quantiser costs, in steps of the dense network.

The wide ResNet-18, 32x32, batch 64, fp32, one thread. All are prepared in one process and take their steps in turn, so
that every figure is a ratio to the dense step of the same turn.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.step import Way, ratio

ONE_THREAD = "trainer.threads=1"
W, A = "quantizer.weight_bits", "quantizer.activation_bits"
DDQ_INPUTS = ("quantizer=ddq", f"{W}=4", "quantizer/activation=ddq")
METHODS = {
    "uniform weights, 4 bits": ("quantizer=uniform", f"{W}=4", f"{A}=null"),
    "uniform weights, 4 bits; PACT inputs, 8 bits": ("quantizer=uniform", f"{W}=4", f"{A}=8"),
    "LSQ weights and inputs, 4 bits": ("quantizer=lsq", f"{W}=4", f"{A}=4"),
    "k-means weights, 4 bits": ("quantizer=kmeans", f"{W}=4"),
    "DDQ weights; PACT inputs, 8 bits": ("quantizer=ddq", f"{W}=4", f"{A}=8"),
    "DDQ weights; DDQ inputs, 4 bits": (*DDQ_INPUTS, f"{A}=4", "quantizer.activation_max_bits=4"),
    "DDQ weights; DDQ inputs, 8 bits": (*DDQ_INPUTS, f"{A}=8", "quantizer.activation_max_bits=8"),
    "nm_block at 2:4, LSQ weights and inputs, 4 bits": (
        *("quantizer=lsq", f"{W}=4", f"{A}=4"),
        *("pruner=nm_block", "schedule=linear", "pruner.n=2", "pruner.m=4"),
    ),
}


def measure(repeats: int, methods: Sequence[str] = tuple(METHODS)) -> list[dict[str, Any]]:
    """One row a quantiser."""
    dense = Way("pruner=dense", ONE_THREAD)
    ways = {name: Way(*METHODS[name], ONE_THREAD) for name in methods}
    for _ in range(repeats):
        for way in (dense, *ways.values()):
            way.take()
    return [
        {
            "training": name,
            "steps of the dense network": round(ratio(way.seconds, dense.seconds), 3),
            "images/s": round(way.session.batches.batch_size / median(way.seconds), 1),
        }
        for name, way in (("dense", dense), *ways.items())
    ]
