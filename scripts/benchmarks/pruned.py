"""Networks that `infer` compares: dense and pruned, of libraries or of finished runs."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import networks
from midstate.common.errors import ConfigError
from midstate.compaction.extracting import extract
from midstate.runs.finished import read_finished, rebuild
from midstate.sparsity import NM, Scope, weight_layers

SHAPE = (3, 224, 224)


@dataclass(frozen=True)
class Network:
    """A network, dense and with zeros.

    Args:
        name: as the table has it.
        shape: (C, H, W) of an image.
        dense: without zeros.
        masked: networks with zeros, by the name of their pruning.
    """

    name: str
    shape: tuple[int, ...]
    dense: nn.Module
    masked: dict[str, nn.Module]


@dataclass(frozen=True, eq=False)
class Form:
    """A form of a network: its module, or why there is none; its share of the dense MACs, and the outputs to expect."""

    pruning: str
    name: str
    model: nn.Module | None
    why: str
    macs: float
    expected: Tensor


def as_if_trained(name: str) -> Network:
    """Make a network of torchvision or timm, dense and pruned."""
    if name.startswith("vit"):
        import timm

        torch.manual_seed(0)
        return pruned(name, networks.as_if_trained(timm.create_model(name)), SHAPE)
    return pruned(name, networks.from_torchvision(name), SHAPE)


def pruned(name: str, dense: nn.Module, shape: tuple[int, ...]) -> Network:
    """Prune half of the coupled channels, heads of attention too, of a copy; and another to 2:4."""
    half, nm = deepcopy(dense), deepcopy(dense)
    networks.prune_channels(half, shape, 0.5, heads=True)
    networks.prune(nm, NM(2, 4), Scope())
    return Network(name, shape, dense, {"half of the channels": half, "2:4": nm})


def of_run(directory: Path) -> Network:
    """Load a finished run's network; its dense counterpart has random numbers in the place of zeros."""
    summary, config = read_finished(directory)
    if summary.get("pattern_verified") is None:
        raise ConfigError(f"{directory}: a dense run; nothing was pruned, so there is nothing to compare")
    masked, data = rebuild(directory, config)
    dense = deepcopy(masked)
    for layer in weight_layers(dense):
        weight = layer.weight.data
        weight[weight == 0] = torch.randn_like(weight)[weight == 0] * weight.std()
    title = f"{summary['pruner']}, {100 * summary['sparsity']:.0f} % zeros"
    return Network(f"{summary['model']} of {directory}", tuple(data.shape), dense, {title: masked})


@torch.no_grad()
def forms_of(network: Network, images: Tensor) -> list[Form]:
    """List the forms of a network: dense, then masked (with its zeros) and extracted for each pruning."""
    whole = networks.sizes(network.dense, images[:2])[1]
    forms = [Form("–", "dense", network.dense, "", 1.0, network.dense(images))]
    for pruning, masked in network.masked.items():
        expected = masked(images)
        small, why = _extracted(masked, network.shape, images, whole)
        macs = networks.sizes(small or masked, images[:2])[1] / whole
        forms += [
            Form(pruning, "masked", masked, "", 1.0, expected),
            Form(pruning, "extracted", small, why, macs, expected),
        ]
    return forms


def _extracted(masked: nn.Module, shape: tuple[int, ...], images: Tensor, whole: int) -> tuple[nn.Module | None, str]:
    """Return the smaller network; or None, and why there is none."""
    try:
        small = extract(masked, shape)
    except ValueError as error:
        return None, f"does not apply: {error}"
    if networks.sizes(small, images[:2])[1] == whole:  # constants may be folded, as a ViT's token, but no channel went
        return None, "does not apply: nothing to remove: zeros within filters stay where they are"
    return small, ""
