"""channels: 30 % of the channels of 25 torchvision networks, cut out here and by Torch-Pruning; needs `.[bench]`.

Weights and BatchNorms are random. Uniform sparsity, linear layers too; images of 32x32 where a network takes them.
"""

import json
import sys
from copy import deepcopy
from typing import Any

from benchmarks.common import in_turn

NETWORKS = (
    "alexnet", "vgg11", "resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d",
    "densenet121", "densenet169", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2",
    "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip
TIMED = ("resnet18", "resnet50", "mobilenet_v2")
SPARSITY = 0.3
SIZES = {"alexnet": 64, "inception_v3": 80}  # of images, where a network takes none so small
SIZE, BATCH = 32, 16
ARGUMENTS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a network; `repeats` passes of each of those in TIMED."""
    rows = []
    for name in NETWORKS:
        rows.append(row_of(name, repeats if name in TIMED else 0))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def row_of(name: str, repeats: int) -> dict[str, Any]:
    """What is left of a network, and how long a pass takes."""
    import torch

    from midstate.compaction.extracting import extract

    size = SIZES.get(name, SIZE)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense = network(name)
    masked = deepcopy(dense)
    prune_channels(masked, tuple(images.shape[1:]), SPARSITY)
    ours = extract(masked, tuple(images.shape[1:]))
    theirs, failed = _by_torch_pruning(deepcopy(dense), images[:1])
    with torch.no_grad():
        expected, found = masked(images), ours(images)
    params, macs = sizes(dense, images)
    row = {"network": name, "image": size, "parameters": params}
    for label, small in (("", ours), (", Torch-Pruning", theirs)):
        left = (None, None) if small is None else sizes(small, images)
        row[f"parameters left{label}"] = failed if left[0] is None else round(left[0] / params, 3)
        row[f"MACs left{label}"] = failed if left[1] is None else round(left[1] / macs, 3)
    difference = float((found - expected).abs().max() / expected.abs().max())
    row["largest difference of outputs"] = f"{difference:.0e}"
    row["holds"] = difference < 1e-5
    times = _times({"dense": dense, "ours": ours, "theirs": theirs}, size, repeats)
    row["a pass, over dense"] = times.get("ours", "not measured")
    row["a pass, over dense, Torch-Pruning"] = times.get("theirs", "not measured")
    return row


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the page has them: what must hold is tested, not shown."""
    return [{key: value for key, value in row.items() if key != "holds"} for row in rows]


def network(name: str) -> Any:
    """A network of torchvision as if trained."""
    import torch
    import torchvision

    torch.manual_seed(0)
    return as_if_trained(getattr(torchvision.models, name)(**ARGUMENTS.get(name, {})))


def as_if_trained(model: Any) -> Any:
    """Draw BatchNorms anew, so that what they leave of a pruned channel is not zero by chance."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            for vector, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                vector.uniform_(low, high)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:  # begins at 1e-6, so that what is pruned would hardly count
            torch.nn.init.ones_(parameter)
    return model.eval()


def prune_channels(model: Any, shape: tuple[int, ...], sparsity: float, heads: bool = False) -> None:
    """Prune a share of the coupled channels in place; with `heads`, of attention's heads too."""
    from midstate.compaction import coupled_channels
    from midstate.sparsity import Channel, Scope

    scope = Scope(skip_first=False, skip_depthwise=False)
    prune(model, Channel(sparsity, heads=heads), scope, coupled_channels(model, shape, heads))


def prune(model: Any, pattern: Any, scope: Any, coupled: Any = None) -> None:
    """Prune in place, at once and uniformly."""
    from midstate import sparsity
    from midstate.models import classifier_names

    method = sparsity.Method(
        scope, pattern, sparsity.L2(), sparsity.Uniform(), sparsity.Direct(), sparsity.Update(), sparsity.Hard()
    )
    schedule = sparsity.Schedule("one_shot", 0, 0)
    pruner = sparsity.Pruner(model, method, schedule, 1, 1, classifier=classifier_names(model), coupled=coupled)
    pruner.refresh(0)
    pruner.finalise()


def _by_torch_pruning(model: Any, images: Any) -> tuple[Any, str]:
    """The network that the library leaves; None and what it said where it cannot."""
    import torch
    import torch_pruning

    from midstate.models import classifier_names

    heads = [model.get_submodule(name) for name in classifier_names(model)]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    try:
        pruner = torch_pruning.pruner.BasePruner(
            model, images, importance, pruning_ratio=SPARSITY, ignored_layers=heads
        )
        pruner.step()
        with torch.no_grad():
            model.eval()(images)
    except Exception as error:  # whatever a network leads to that the library does not understand
        return None, f"fails: {type(error).__name__}"
    return model, ""


def sizes(model: Any, images: Any) -> tuple[int, int]:
    """Parameters, and multiply-accumulates of an image."""
    from midstate.compaction import weight_uses
    from midstate.sparsity import weight_layers

    uses = weight_uses(model, images)
    macs = sum(layer.weight.numel() * uses.get(layer.name, 0) for layer in weight_layers(model))
    return sum(each.numel() for each in model.parameters()), macs


def _times(networks: dict[str, Any], size: int, repeats: int) -> dict[str, float]:
    """Median seconds of a pass over the dense network's, taken in turn."""
    import torch

    images = torch.randn(BATCH, 3, size, size)
    passes = {name: (lambda each=each: each(images)) for name, each in networks.items() if each is not None}
    with torch.no_grad():
        medians = in_turn(passes, repeats)
    return {name: round(each / medians["dense"], 2) for name, each in medians.items()}
