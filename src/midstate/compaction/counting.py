"""Parameters and multiply-accumulates (MACs), of the dense and of the pruned network.

Counted exactly: what is left when every weight that is zero, and every weight that reads a channel which no
longer depends on the image, is cut out. Counted nominally, as papers do: densities times dense figures.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from midstate.sparsity import Layer, weight_layers
from midstate.sparsity.criteria.base import of_inputs
from midstate.sparsity.observe import evaluation

IMAGES_AT_ONCE = 32


@torch.no_grad()
def weight_uses(model: nn.Module, sample: Tensor) -> dict[str, int]:
    """Count how often one image uses each weight: output positions of a convolution, tokens of a linear layer.

    Args:
        model: any model; one forward pass is made in evaluation mode.
        sample: a batch (N, C, H, W).

    Returns:
        Uses per image by layer name, as `weight_layers` names them. MACs of a layer = weights * uses.
    """
    uses: dict[str, int] = {}

    def add(name: str, features: Tensor, channel_dim: int) -> None:
        positions = features.numel() // features.shape[channel_dim]
        uses[name] = uses.get(name, 0) + positions // len(sample)

    def hook(layer: Layer) -> Callable:
        def record(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            if isinstance(module, nn.MultiheadAttention):
                add(layer.name, inputs[layer.input_index], -1)
                if layer.input_index == 0:  # its output projection is called as a function, so no hook would see it
                    add(layer.name.removesuffix(layer.tensor_name) + "out_proj", inputs[0], -1)
            else:
                add(layer.name, output, 1 if layer.is_conv else -1)

        return record

    layers = weight_layers(model)
    hooks = [layer.module.register_forward_hook(hook(layer)) for layer in layers]
    calls: dict[int, int] = {}
    with evaluation(model), _FunctionCalls(calls):
        model(sample)
    for handle in hooks:
        handle.remove()
    for layer in layers:  # some models hand a layer's weight to a function, where no hook sees it
        if layer.name not in uses and id(layer.weight) in calls:
            uses[layer.name] = calls[id(layer.weight)] // len(sample)
    return uses


class _FunctionCalls(TorchFunctionMode):
    """Counts, by weight, how many rows `torch.nn.functional.linear` is given."""

    def __init__(self, calls: dict[int, int]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        if func is nn.functional.linear and len(args) > 1:
            rows = args[0].numel() // args[0].shape[-1]
            self.calls[id(args[1])] = self.calls.get(id(args[1]), 0) + rows
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def alive_inputs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Find the input channels of every layer and BatchNorm that still depend on the image.

    A channel is dead where the weights of the filter that makes it, or all channels that these read, are
    zero; what bias and BatchNorm then give it is a constant that can be folded into the next layer. A sum
    (a residual join) is dead only where all its terms are.

    Args:
        model: a plain model, masks folded in.
        shape: of one image (C, H, W).

    Returns:
        Bool vectors (C,) by name: of the layer, or of the BatchNorm module. Layers that no hook sees
        (attention's output projection) are left out; all their inputs count as alive.
    """
    traced = _trace(model, shape, 1, lambda layer, inputs: _reached(layer, inputs))
    return {name: alive[0] for name, alive in traced.items()}


@torch.no_grad()
def fed_by(model: nn.Module, layers: list[Layer], shape: tuple[int, ...]) -> dict[str, str]:
    """Find which layers read one of `layers` and nothing else: {reader: source}, both by name.

    Args:
        model: a plain model.
        layers: the sources.
        shape: of one image (C, H, W).
    """
    names: list[str] = []  # of the sources looked at together
    every = {layer.name for layer in layers}

    def all_but_one(layer: Layer, inputs: Tensor) -> Tensor:
        """In the i-th image of the batch, the i-th source is dead and everything else alive."""
        if layer.name not in every and layer.is_conv and layer.module.groups > 1:
            return _reached(layer, inputs)  # a depthwise convolution passes on what it gets
        alive = torch.ones(len(names), layer.weight.shape[0], dtype=torch.bool, device=inputs.device)
        if layer.name in names:
            alive[names.index(layer.name)] = False
        return alive

    sources: dict[str, str] = {}
    for start in range(0, len(layers), IMAGES_AT_ONCE):
        names = [layer.name for layer in layers[start : start + IMAGES_AT_ONCE]]
        for reader, alive in _trace(model, shape, len(names), all_but_one).items():
            if dead := (~alive.any(1)).nonzero().flatten().tolist():
                sources[reader] = names[dead[0]]
    return sources


def _trace(
    model: nn.Module, shape: tuple[int, ...], num_images: int, alive_outputs: Callable[[Layer, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Send NaN through the model as a dye: what it reaches is alive.

    Every layer's output is replaced by NaN in its living channels and 0 in its dead ones; all that lies
    between layers (norms, activations, sums, pooling, padding) carries the dye by itself.
    """
    reached: dict[str, Tensor] = {}

    def living(features: Tensor, is_conv: bool) -> Tensor:
        by_channel = features.isnan().movedim(1 if is_conv else -1, 1)
        return by_channel.flatten(2).any(2) if by_channel.dim() > 2 else by_channel

    def dye(layer: Layer, inputs: tuple, output: Tensor) -> Tensor | None:
        if isinstance(layer.module, nn.MultiheadAttention):
            return None
        inputs_alive = living(inputs[0], layer.is_conv)
        note(layer.name, inputs_alive)
        alive = alive_outputs(layer, inputs_alive)
        output = output.movedim(1, -1) if layer.is_conv else output
        alive = alive.view(len(alive), *[1] * (output.dim() - 2), -1).expand(output.shape)
        dyed = torch.zeros_like(output).masked_fill(alive, torch.nan)
        return dyed.movedim(-1, 1).contiguous() if layer.is_conv else dyed  # models may take views of it

    def note(name: str, alive: Tensor) -> None:
        reached[name] = alive | reached[name] if name in reached else alive  # a module may be called more than once

    def note_norm(name: str, norm: nn.Module, inputs: tuple) -> None:
        note(name, living(inputs[0], True))

    hooks = [
        layer.module.register_forward_hook(lambda _, inputs, output, layer=layer: dye(layer, inputs, output))
        for layer in weight_layers(model)
    ]
    for name, norm in model.named_modules():
        if isinstance(norm, _BatchNorm):
            hooks.append(norm.register_forward_pre_hook(partial(note_norm, name)))
    first = next(model.parameters())
    with evaluation(model):
        model(torch.full((num_images, *shape), torch.nan, device=first.device, dtype=first.dtype))
    for hook in hooks:
        hook.remove()
    return reached


def _reads(layer: Layer) -> Tensor:
    """Which input channels of its group each output of a layer has a non-zero weight for: (groups, O/groups, C)."""
    connected = (layer.weight != 0).flatten(2).any(2) if layer.weight.dim() > 2 else layer.weight != 0
    groups = layer.module.groups if layer.is_conv else 1
    return connected.view(groups, -1, connected.shape[1])


def _reached(layer: Layer, inputs: Tensor) -> Tensor:
    """Which outputs (N, O) the living inputs (N, C) reach."""
    reads = _reads(layer)
    grouped = inputs.view(len(inputs), reads.shape[0], 1, -1)
    return (grouped & reads).any(3).flatten(1)


def count(
    model: nn.Module,
    layers: list[Layer],
    densities: list[float],
    prunes_filters: bool,
    uses: dict[str, int],
    shape: tuple,
) -> dict[str, int | float]:
    """Count the finished model.

    Args:
        model: a plain model, masks folded in.
        layers: its prunable layers.
        densities: the share of its weights that each of them was to keep, for the nominal figure.
        prunes_filters: whether whole filters went, so that papers credit the next layer with fewer inputs.
        uses: from `weight_uses`.
        shape: of one image (C, H, W).

    Returns:
        `params_total`, `params_prunable` (weights in `layers`), `params_nonzero` (of all parameters),
        `params_sparse` (of those, without weights that read dead channels and the biases and BatchNorm
        parameters of dead channels), `sparsity` (zeros among the prunable), `sparsity_total` (the same
        zeros among all parameters); and MACs per image of convolutions, linear layers and attention
        projections, 1 MAC = one multiply and one add: `macs_dense`, `macs_sparse` (of the weights counted
        in `params_sparse`), `macs_nominal` (densities times `macs_dense`, a layer that reads one pruned
        layer alone counted with that layer's density again, as the papers on filters do).
    """
    every = weight_layers(model)
    prunable = sum(layer.weight.numel() for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    total = sum(p.numel() for p in model.parameters())
    nonzero = sum(int(p.count_nonzero()) for p in model.parameters())
    alive = alive_inputs(model, shape)
    living = {layer.name: _living_weights(layer, alive) for layer in every}
    dead = sum(int(layer.weight.count_nonzero()) for layer in every) - sum(living.values())
    dense = {layer.name: layer.weight.numel() * uses.get(layer.name, 0) for layer in every}
    return {
        "params_total": total,
        "params_prunable": prunable,
        "params_nonzero": nonzero,
        "params_sparse": nonzero - dead - _dead_vectors(model, alive),
        "sparsity": zeros / prunable,
        "sparsity_total": zeros / total,
        "macs_dense": sum(dense.values()),
        "macs_sparse": sum(living[name] * uses.get(name, 0) for name in living),
        "macs_nominal": _nominal(dense, layers, densities, fed_by(model, layers, shape) if prunes_filters else {}),
    }


def _living_weights(layer: Layer, alive: dict[str, Tensor]) -> int:
    """Number of non-zero weights that read living channels."""
    weight = layer.weight
    if layer.name not in alive:
        return int(weight.count_nonzero())
    return int((weight * of_inputs(weight, alive[layer.name])).count_nonzero())


def _dead_vectors(model: nn.Module, alive: dict[str, Tensor]) -> int:
    """Number of non-zero biases and BatchNorm parameters of dead channels."""
    num = 0
    for layer in weight_layers(model):
        bias = getattr(layer.module, "bias", None)
        if layer.name in alive and bias is not None:
            num += int(bias[~_reached(layer, alive[layer.name][None])[0]].count_nonzero())
    for name, norm in model.named_modules():
        if isinstance(norm, _BatchNorm) and name in alive and norm.affine:
            num += sum(int(vector[~alive[name]].count_nonzero()) for vector in (norm.weight, norm.bias))
    return num


def _nominal(dense: dict[str, int], layers: list[Layer], densities: list[float], sources: dict[str, str]) -> int:
    """MACs by densities alone."""
    density = dict(zip([layer.name for layer in layers], densities, strict=True))
    return round(
        sum(macs * density.get(name, 1.0) * density.get(sources.get(name, ""), 1.0) for name, macs in dense.items())
    )
