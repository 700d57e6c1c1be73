"""Smaller layers without the dead channels, and the contribution of the constants that these channels held."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from midstate.compaction.observing import collapsed
from midstate.compaction.parts import BorderShift, Shift


@dataclass(frozen=True)
class Cut:
    """A layer cut out of a larger one.

    Args:
        module: the smaller layer.
        inputs: (I,) channels that it reads, by their index in the larger layer.
        outputs: (O,) channels that it makes, by their index in the larger layer; -1: a channel of zeros, to be dropped.
    """

    module: nn.Module
    inputs: Tensor
    outputs: Tensor


def cut_layer(module: nn.Module, inputs: Tensor, outputs: Tensor) -> Cut:
    """Cut a convolution or linear layer.

    Where groups keep different numbers of channels, the smaller ones are filled up with weights of zero.

    Args:
        module: nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Linear.
        inputs: (I,) input channels that are left, ascending.
        outputs: (O,) filters that are left, one at least, ascending; each has a weight for one of `inputs`.
    """
    weight, groups = module.weight, getattr(module, "groups", 1)
    per_group, filters = weight.shape[1], weight.shape[0] // groups
    own = [(inputs[inputs // per_group == group], outputs[outputs // filters == group]) for group in range(groups)]
    own = [pair for pair in own if len(pair[1])]
    num_inputs, num_outputs = (max(len(pair[i]) for pair in own) for i in (0, 1))
    smaller = weight.new_zeros((len(own) * num_outputs, num_inputs, *weight.shape[2:]))
    bias = None if module.bias is None else module.bias.new_zeros(len(smaller))
    read, made = [], []
    for i, (ins, outs) in enumerate(own):
        rows = slice(i * num_outputs, i * num_outputs + len(outs))
        smaller[rows, : len(ins)] = weight[outs][:, ins % per_group]
        if bias is not None:
            bias[rows] = module.bias[outs]
        read += [ins, ins[:1].expand(num_inputs - len(ins))]
        made += [outs, outs.new_full((num_outputs - len(outs),), -1)]
    module = deepcopy(module)
    module.weight = nn.Parameter(smaller, requires_grad=module.weight.requires_grad)
    if bias is not None:
        module.bias = nn.Parameter(bias, requires_grad=module.bias.requires_grad)
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = num_inputs, num_outputs
    else:
        module.in_channels, module.out_channels, module.groups = len(own) * num_inputs, len(smaller), len(own)
    return Cut(module, torch.cat(read), torch.cat(made))


def cut_norm(norm: _BatchNorm, channels: Tensor, shift: Tensor | None) -> _BatchNorm:
    """Cut a BatchNorm.

    Args:
        norm: the BatchNorm.
        channels: (C,) channels that are left.
        shift: (C,) what the inputs of these channels have lost, subtracted from the running mean; None: nothing.
    """
    smaller = deepcopy(norm)
    smaller.num_features = len(channels)
    if norm.affine:
        for name in ("weight", "bias"):
            vector = getattr(norm, name)
            setattr(smaller, name, nn.Parameter(vector[channels].clone(), requires_grad=vector.requires_grad))
    if norm.running_mean is not None:
        smaller.running_mean, smaller.running_var = norm.running_mean[channels], norm.running_var[channels]
        if shift is not None:
            smaller.running_mean = smaller.running_mean - shift
    return smaller


@dataclass(frozen=True)
class Response:
    """Contribution of removed input channels to a layer's outputs.

    Args:
        module: adds the contribution to the layer's output (a BorderShift reads the layer's input, too); None: it is 0.
        vector: (O,) the contribution, if it is one number a channel, which a bias or BatchNorm can take; else None.
        any_size: whether it is right for images of any size.
    """

    module: nn.Module | None
    vector: Tensor | None
    any_size: bool


def response(
    layer: nn.Module, inputs: Tensor, larger: Tensor | None, kept: Tensor, outputs: Tensor, dim: int
) -> Response:
    """Find the contribution of the constants among a layer's inputs.

    Args:
        layer: the whole layer.
        inputs: (1, C, ...) values that the layer read.
        larger: the same values for larger images; None if these were not run.
        kept: channels of `inputs` that depend on the image.
        outputs: (O,) filters that are left.
        dim: dimension of the channels.
    """
    bare = deepcopy(layer)
    bare.bias = None
    pair = [None if each is None else each.index_fill(dim, kept, 0) for each in (inputs, larger)]
    made = [None if each is None else bare(each).index_select(dim, outputs) for each in pair]
    constants, any_size = collapsed(*made, dim)
    if any_size and not constants.any():
        return Response(None, None, True)
    if any_size and constants.numel() == len(outputs):
        return Response(Shift(constants), constants.flatten(), True)
    values, everywhere = collapsed(*pair, dim)
    if everywhere and values.numel() == values.shape[dim] and getattr(layer, "padding_mode", "") == "zeros":
        return Response(BorderShift(layer, _kernel(layer, values.flatten())[outputs]), None, True)
    return Response(Shift(constants), None, any_size)


def _kernel(conv: nn.Module, constants: Tensor) -> Tensor:
    """A convolution's weights times the constants (C,) that they read, summed over input channels: (O, 1, *K)."""
    weight, groups = conv.weight, conv.groups
    by_row = constants.view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
    return (weight * by_row.view(*by_row.shape, *[1] * (weight.dim() - 2))).sum(1, keepdim=True)
