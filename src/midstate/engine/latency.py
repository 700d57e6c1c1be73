"""Time of each layer at each pair of bits, on the processor at hand.

| kernel      | what is timed                                                                                     |
|-------------|---------------------------------------------------------------------------------------------------|
| `bitserial` | im2col, packing of the inputs, AND and popcount of every pair of bit planes (`engine.bitserial`)   |
| `int8`      | torch's int8 convolution or product; fewer bits take as long: there is no smaller type             |

A pair of 32 bits is the module itself, in float32. Weights are packed beforehand. Each time is the median of several
repeats in CPU time of this thread, so that other programs on the machine count as little as possible.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midstate.engine import bitserial
from midstate.quantization import without_input_quantisers
from midstate.quantization.bits import FLOAT_BITS
from midstate.sparsity import Layer, weight_layers
from midstate.sparsity.observe import evaluation
from midstate.sparsity.tensors import input_of

KERNELS = ("bitserial", "int8")
REPEATS = 7
MOST_SECONDS = 0.5  # limit for the repeats of one pair, of which three at least are made


@torch.no_grad()
def latencies(
    model: nn.Module,
    images: Tensor,
    kernel: str,
    pairs: Sequence[tuple[int, int]],
    measured: Callable[[], object] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Time every layer for one image, in whole microseconds, at every pair of bits (weights, inputs) and at 32 bits.

    Args:
        model: on the CPU; quantisers of inputs are off meanwhile, so that their rounding is not timed.
        images: (1, C, H, W).
        kernel: one of `KERNELS`.
        pairs: bits of weights and of inputs, 1 to 8 each.
        measured: called after each layer.

    Returns:
        For each layer, by name, the `shape` of its weight, and `us` by pair, as `Latency` reads them.

    Raises:
        ValueError: a layer cannot be timed, or this build of torch lacks the kernel.
    """
    layers, table = weight_layers(model), {}
    with without_input_quantisers(model):
        inputs = layer_inputs(model, layers, images)
        for each in layers:
            times = {f"{FLOAT_BITS},{FLOAT_BITS}": 0} | dict.fromkeys((f"{w},{a}" for w, a in pairs), 0)
            for seen in inputs[each.name]:
                for pair, us in _times(each, seen, kernel, pairs).items():
                    times[pair] += us
            table[each.name] = {"shape": list(each.weight.shape), "us": times}
            measured()
    return table


def layer_inputs(model: nn.Module, layers: Sequence[Layer], images: Tensor) -> dict[str, list[Tensor]]:
    """The inputs of each layer by name, one tensor for each call.

    Raises:
        ValueError: a layer of another kind than Conv2d and Linear, or one that is never called.
    """
    found: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for layer in layers:
        if not isinstance(layer.module, nn.Conv2d | nn.Linear):
            kind = type(layer.module).__name__
            raise ValueError(f"{layer.name} ({kind}): cannot be timed; only Conv2d and Linear have a kernel here")
    hooks = [
        layer.module.register_forward_pre_hook(
            lambda *given, name=layer.name: found[name].append(input_of(*given)), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        with evaluation(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if unseen := [name for name, seen in found.items() if not seen]:
        raise ValueError(f"{unseen[0]}: cannot be timed; an image does not go through the module")
    return found


def _times(layer: Layer, seen: Tensor, kernel: str, pairs: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Microseconds of one call of a layer, by pair."""
    module = layer.module
    times = {f"{FLOAT_BITS},{FLOAT_BITS}": microseconds(lambda: module(seen))}
    if kernel == "int8":
        try:
            call = _int8(module, seen)
        except (AttributeError, RuntimeError) as error:
            raise ValueError(f"kernel=int8: this torch cannot time {layer.name} ({error})") from error
        return times | dict.fromkeys((f"{w},{a}" for w, a in pairs), microseconds(call))
    draws, signed = np.random.default_rng(0), bool((seen < 0).any())
    for w, a in pairs:
        weights = integers(draws, tuple(layer.weight.shape), w, True)
        packed = bitserial.planes(bitserial.filters(module, weights), w)
        inputs = integers(
            draws, tuple(seen.shape) if isinstance(module, nn.Linear) else tuple(seen.shape[1:]), a, signed
        )
        times[f"{w},{a}"] = microseconds(
            lambda packed=packed, inputs=inputs, a=a: bitserial.layer(module, packed, inputs, a, signed)
        )
    return times


def integers(draws: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
    """Random integers over the whole range of `bits` bits, int8 if signed, else uint8."""
    low = -(2 ** (bits - 1)) if signed else 0
    return draws.integers(low, low + 2**bits, shape, dtype=np.int8 if signed else np.uint8)


def _int8(module: nn.Module, seen: Tensor) -> Callable[[], Any]:
    """A function that runs a layer in int8, its weights packed beforehand."""
    quantized, scale = torch.ops.quantized, 0.02
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends another interface to the same kernels
        x = torch.quantize_per_tensor(seen.float(), scale, 128, torch.quint8)
        w = torch.quantize_per_tensor(module.weight.detach().float(), scale, 0, torch.qint8)
    if isinstance(module, nn.Linear):
        packed = quantized.linear_prepack(w, None)
        return lambda: quantized.linear(x, packed, scale, 128)
    left, right, top, bottom = module._reversed_padding_repeated_twice
    if (left, top) != (right, bottom):
        x = torch.quantize_per_tensor(F.pad(seen, (left, right, top, bottom)).float(), scale, 128, torch.quint8)
        top = left = 0
    packed = quantized.conv2d_prepack(w, None, module.stride, (top, left), module.dilation, module.groups)
    return lambda: quantized.conv2d(x, packed, scale, 128)


def microseconds(call: Callable[[], Any]) -> int:
    """Median CPU time of several calls, in whole microseconds, 1 at least."""
    call()  # warm-up: the first call may create caches
    times: list[float] = []
    while len(times) < REPEATS and (len(times) < 3 or sum(times) < MOST_SECONDS):
        started = time.thread_time()
        call()
        times.append(time.thread_time() - started)
    return max(1, round(1e6 * statistics.median(times)))
