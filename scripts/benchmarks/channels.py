"""channels: 30 % of the channels of 25 torchvision networks, cut out here and by Torch-Pruning; needs `.[bench]`.

Weights and BatchNorms are random. Uniform sparsity, linear layers too; images of 32x32 where a network takes them.
"""

import json
import sys
from copy import deepcopy
from typing import Any

from benchmarks.common import in_turn
from benchmarks.networks import from_torchvision, prune_channels, sizes

NETWORKS = (
    "alexnet", "vgg11", "resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d",
    "densenet121", "densenet169", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2",
    "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0",
    "efficientnet_b0", "regnet_x_400mf", "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip
SPARSITY = 0.3
SIZES = {"alexnet": 64, "inception_v3": 80}  # of images, for networks that need larger ones than SIZE
SIZE, BATCH = 32, 16


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a network; `repeats` passes of each in turn."""
    rows = []
    for name in NETWORKS:
        rows.append(row_of(name, repeats))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def row_of(name: str, repeats: int) -> dict[str, Any]:
    """Return what is left of a network, and the time of a pass."""
    import torch

    from midstate.compaction.extracting import extract

    size = SIZES.get(name, SIZE)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    dense = from_torchvision(name)
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
    row["a pass, over dense"] = times["ours"]
    row["a pass, over dense, Torch-Pruning"] = times.get("theirs", failed)
    return row


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows as the page has them, without `holds`."""
    return [{key: value for key, value in row.items() if key != "holds"} for row in rows]


def _by_torch_pruning(model: Any, images: Any) -> tuple[Any, str]:
    """Return the network that the library leaves; or None, and the kind of its error."""
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
    except Exception as error:  # of any kind, on networks that the library cannot handle
        return None, f"fails: {type(error).__name__}"
    return model, ""


def _times(networks: dict[str, Any], size: int, repeats: int) -> dict[str, float]:
    """Return the median time of a pass of each network over the dense one's, measured in turn."""
    import torch

    images = torch.randn(BATCH, 3, size, size)
    passes = {name: (lambda each=each: each(images)) for name, each in networks.items() if each is not None}
    with torch.no_grad():
        medians = in_turn(passes, repeats)
    return {name: round(each / medians["dense"], 2) for name, each in medians.items()}
