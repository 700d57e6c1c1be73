"""Extraction of a smaller network that computes the same, and its comparison with the original."""

from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from midstate.compaction.heads import remove_dead_heads
from midstate.compaction.observing import Observed, fitting, traced
from midstate.compaction.rewriting import Rewriter
from midstate.sparsity.observe import evaluation

NUM_COMPARED = 4  # images
TOLERANCE = 1e-9  # of the largest output, in double precision


@torch.no_grad()
def extract(model: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    """Remove every filter that masks have emptied, and whatever else no longer depends on the image.

    Bias and BatchNorm make removed channels a constant; it is carried into the layers that read it. The outputs are
    those of `model` in evaluation mode, to rounding. The number of non-zero parameters and their MACs are the
    `params_sparse` and `macs_sparse` that `counting.count` reports of `model`: no parameter is added, and no zero
    becomes non-zero, nor the reverse. They are smaller only where nothing reads a whole layer any more, or where one of
    a layer's calls reads no living channel. Zeros within filters that stay are left as they are.

    Args:
        model: a plain model, masks folded in; it is left as it was. Layers keep their names.
        shape: of one image (C, H, W). Where constants vary in space (behind padded depthwise convolutions, say), the
            extracted network takes images of this size alone, and says so with a ValueError.

    Returns:
        A module in evaluation mode, of ordinary layers and the modules of `compaction.parts`. Training it further is
        not equivalent to training `model`: BatchNorm would measure its statistics without the constants.

    Raises:
        ValueError: masks are still attached, nothing can be removed, the output has become a constant, the model does
            not take such images or torch.fx cannot trace it, or the smaller network would not compute the same.
    """
    if any(is_parametrized(module) for module in model.modules()):
        raise ValueError("masks are still attached to the model; finalise the pruner first")
    name, dtype = type(model).__name__, next(model.parameters()).dtype
    whole = deepcopy(model).double()
    remove_dead_heads(whole)
    graph = traced(whole)
    with fitting(name, shape):
        seen = Observed(graph, shape)
    network = Rewriter(seen).rewrite()
    if _num_parameters(network) == _num_parameters(model):
        raise ValueError(
            "nothing to remove: every channel depends on the image; zeros within filters stay where they are"
        )
    _compare(name, network, deepcopy(model).double(), shape)
    return network.to(dtype).eval()


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _compare(name: str, network: nn.Module, model: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless both networks give the same outputs."""
    first = next(model.parameters())
    images = torch.randn(NUM_COMPARED, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images = images.to(first.device)
    with evaluation(model), evaluation(network):
        expected, found = model(images), network(images)
    if not isinstance(expected, Tensor):
        raise ValueError(f"{name} cannot be extracted: it gives a {type(expected).__name__} where a tensor is needed")
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise ValueError(
            f"{name} cannot be extracted: without its dead channels its outputs would differ by {difference:.3g}, the "
            f"largest being {largest:.3g}"
        )
