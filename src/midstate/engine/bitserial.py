"""A bit-serial kernel in numpy: integers of few bits multiplied plane by plane, as bit-serial hardware does.

x and w are sums of bit planes, so that x . w = sum over i, j of +-2^(i+j) popcount(w_i AND x_j): the time is
proportional to the product of the two numbers of bits (BISMO, arXiv 1806.08862). Negative numbers are in two's
complement: the highest plane counts negatively. Shapes: G groups of a convolution, R rows (filters or positions), K
summands of one output.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from torch import nn

WORD = 64  # bits


def planes(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack integers (G, R, K) of `bits` bits into bit planes (bits, G, ceil(K / 64), R) of uint64 words."""
    low = values.astype(np.int8).view(np.uint8) if values.dtype != np.uint8 else values
    shifts = np.arange(bits, dtype=np.uint8)[:, None, None, None]
    packed = np.packbits((low[None] >> shifts) & 1, axis=-1, bitorder="little")
    packed = np.pad(packed, [(0, 0)] * 3 + [(0, -packed.shape[-1] % (WORD // 8))])
    return np.ascontiguousarray(packed.view(np.uint64).swapaxes(-1, -2))


def product(weights: np.ndarray, inputs: np.ndarray, signed_inputs: bool) -> np.ndarray:
    """Dot products of every filter with every position, (G, filters, positions) int32.

    Args:
        weights: planes of signed integers, (bits, G, words, filters).
        inputs: planes, (bits, G, words, positions).
        signed_inputs: whether the inputs are in two's complement.
    """
    total = np.zeros((weights.shape[1], weights.shape[3], inputs.shape[3]), dtype=np.int32)
    for i, weight in enumerate(weights):
        for j, each in enumerate(inputs):
            counts = np.bitwise_count(weight[..., None] & each[..., None, :]).sum(axis=1, dtype=np.int32)
            negative = (i == len(weights) - 1) != (signed_inputs and j == len(inputs) - 1)
            total += counts << (i + j) if not negative else -(counts << (i + j))
    return total


def columns(module: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """Inputs that each output position of a layer reads, (G, positions, K): im2col of one image, or rows of a Linear.

    Args:
        module: Conv2d or Linear.
        inputs: (C, H, W), or (..., K).
    """
    if isinstance(module, nn.Linear):
        return inputs.reshape(1, -1, inputs.shape[-1])
    groups, kernel, step, dilation = module.groups, module.kernel_size, module.stride, module.dilation
    padded = np.pad(inputs, [(0, 0), *_padding(module)])
    spans = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
    windows = sliding_window_view(padded, spans, (1, 2))
    windows = windows[:, :: step[0], :: step[1], :: dilation[0], :: dilation[1]]
    channels, height, width = windows.shape[:3]
    by_group = windows.reshape(groups, channels // groups, height, width, *kernel)
    return by_group.transpose(0, 2, 3, 1, 4, 5).reshape(groups, height * width, -1)


def filters(module: nn.Module, weights: np.ndarray) -> np.ndarray:
    """A layer's weights by group, (G, filters, K)."""
    return weights.reshape(getattr(module, "groups", 1), -1, weights[0].size)


def layer(module: nn.Module, packed: np.ndarray, inputs: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """A layer's integer outputs for one image, (filters, positions), no bias.

    Args:
        module: Conv2d or Linear.
        packed: `planes` of its filters.
        inputs: integers, see `columns`.
        bits: number of bits of the inputs.
        signed: whether the inputs are in two's complement.
    """
    total = product(packed, planes(columns(module, inputs), bits), signed)
    return total.reshape(-1, total.shape[-1])


def _padding(module: nn.Conv2d) -> list[tuple[int, int]]:
    """Padding of the height (above, below) and of the width (left, right)."""
    left, right, top, bottom = module._reversed_padding_repeated_twice
    return [(top, bottom), (left, right)]
