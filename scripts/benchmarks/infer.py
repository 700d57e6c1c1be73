"""infer: dense, masked and extracted networks in torch, onnxruntime, OpenVINO and, where there is one, on a GPU.

Half of the coupled channels, and 2:4, of four networks as if trained, or runs: `infer RUN ...`. Needs `.[bench]`.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import channels
from benchmarks.common import in_turn
from benchmarks.resident import first_pass
from benchmarks.runtimes import Loaded, Runtime, runtimes
from midstate.common.errors import ConfigError, first_line
from midstate.compaction.extracting import extract
from midstate.runs.finished import read_finished, rebuild
from midstate.sparsity import NM, Scope, weight_layers

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "vit_tiny_patch16_224")
SHAPE = (3, 224, 224)
BATCHES = (1, 64)
FASTER = 1.05  # less is no speed-up
NOTHING = "–"


@dataclass(frozen=True)
class Network:
    """A network, dense and with zeros.

    Args:
        name: in the table.
        shape: (C, H, W) of an image.
        dense: without zeros.
        masked: by how they were pruned.
    """

    name: str
    shape: tuple[int, ...]
    dense: nn.Module
    masked: dict[str, nn.Module]


@dataclass(frozen=True)
class Form:
    """A form of a network: its module, or why there is none; its share of the dense network's MACs, and its outputs."""

    pruning: str
    name: str
    model: nn.Module | None
    why: str
    macs: float
    expected: Tensor


def measure(repeats: int, runs: Sequence[Path] = (), batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """One row a network, runtime and form; `repeats` passes of each form of a network in turn.

    Raises:
        ConfigError: a run is not finished, or has pruned nothing.
    """
    networks: Iterable[Network] = [of_run(run) for run in runs] if runs else map(as_if_trained, NETWORKS)
    rows = []
    for network in networks:
        for row in rows_of(network, repeats, batches):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as the page has them: what must hold is tested, not shown."""
    return [{key: value for key, value in row.items() if key != "holds"} for row in rows]


def as_if_trained(name: str) -> Network:
    """A network of torchvision or timm, and what pruning leaves of it."""
    if name.startswith("vit"):
        import timm

        torch.manual_seed(0)
        return pruned(name, channels.as_if_trained(timm.create_model(name)), SHAPE)
    return pruned(name, channels.network(name), SHAPE)


def pruned(name: str, dense: nn.Module, shape: tuple[int, ...]) -> Network:
    """Prune half of the coupled channels, heads of attention too, of a copy; and another to 2:4."""
    half, nm = deepcopy(dense), deepcopy(dense)
    channels.prune_channels(half, shape, 0.5, heads=True)
    channels.prune(nm, NM(2, 4), Scope())
    return Network(name, shape, dense, {"half of the channels": half, "2:4": nm})


def of_run(directory: Path) -> Network:
    """A finished run's network; in the dense one beside it, its zeros are random numbers."""
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
def rows_of(network: Network, repeats: int, batches: Sequence[int] = BATCHES) -> list[dict[str, Any]]:
    """All forms in all runtimes."""
    images = torch.randn(max(batches), *network.shape, generator=torch.Generator().manual_seed(0))
    forms, few = list(_forms(network, images)), images[:4]
    rows = []
    for runtime in runtimes():
        if why := runtime.missing(network.dense):
            rows.append(_row(network, runtime, None, batches, why))
            continue
        loaded, found = {}, {}
        for i, form in enumerate(forms):
            why = form.why
            if form.model is not None:
                try:
                    loaded[i] = runtime.loaded(form.model, few)
                except ValueError as error:
                    why = f"does not apply: {first_line(error)}"
            found[i] = _row(network, runtime, form, batches, why)
        _measured(found, loaded, forms, runtime, images.to(runtime.device, runtime.dtype), repeats)
        rows += found.values()
    return rows


def _forms(network: Network, images: Tensor) -> Iterable[Form]:
    """What there is of a network; masks are folded in."""
    whole = channels.sizes(network.dense, images[:2])[1]
    yield Form(NOTHING, "dense", network.dense, "", 1.0, network.dense(images))
    for pruning, masked in network.masked.items():
        expected = masked(images)
        yield Form(pruning, "masked", masked, "", 1.0, expected)
        try:
            small = extract(masked, network.shape)
        except ValueError as error:
            yield Form(pruning, "extracted", None, f"does not apply: {error}", 1.0, expected)
        else:
            yield Form(pruning, "extracted", small, "", channels.sizes(small, images[:2])[1] / whole, expected)


def _row(network: Network, runtime: Runtime, form: Form | None, batches: Sequence[int], why: str) -> dict[str, Any]:
    """A row before anything is measured."""
    about = ("all", "all") if form is None else (form.pruning, form.name)
    row = {"network": network.name, "pruning": about[0], "form": about[1], "runtime": runtime.name}
    row["MACs, of dense"] = round(form.macs, 3) if form and form.model else NOTHING
    for what in ("ms", "images/s", "times faster than dense"):
        row |= {f"{what}, batch {batch}": NOTHING for batch in batches}
    row |= {"weights (MiB)": NOTHING, f"a pass of {max(batches)}, peak (MiB)": NOTHING}
    return row | {"largest difference of outputs": NOTHING, "why": why, "holds": True}


def _measured(
    rows: dict[int, dict[str, Any]],
    loaded: dict[int, Loaded],
    forms: list[Form],
    runtime: Runtime,
    images: Tensor,
    repeats: int,
) -> None:
    """Fill in outputs, memory and times; form 0 is dense."""
    for i, each in loaded.items():
        outputs, peak = first_pass(each.load, images)
        difference = float((outputs.float().cpu() - forms[i].expected).abs().max() / forms[i].expected.abs().max())
        rows[i]["weights (MiB)"] = round(each.bytes / 2**20, 2)
        rows[i][f"a pass of {len(images)}, peak (MiB)"] = "not measured" if peak is None else round(peak, 1)
        rows[i]["largest difference of outputs"] = f"{difference:.0e}"
        rows[i]["holds"] = runtime.tolerance is None or difference <= runtime.tolerance
    batches = [int(key.rpartition(" ")[2]) for key in rows[0] if key.startswith("ms, batch")]
    for batch in batches:
        passes = {i: partial(each.load(batch), images[:batch]) for i, each in loaded.items()}
        medians = in_turn(passes, repeats)
        for i, seconds in medians.items():
            rows[i][f"ms, batch {batch}"] = round(1e3 * seconds, 2)
            rows[i][f"images/s, batch {batch}"] = round(batch / seconds, 1)
            if 0 in medians:
                rows[i][f"times faster than dense, batch {batch}"] = round(medians[0] / seconds, 2)
    for i, each in loaded.items():
        rows[i]["why"] = each.note or _why(rows[i], runtime, batches)


def _why(row: dict[str, Any], runtime: Runtime, batches: Sequence[int]) -> str:
    """Why a form is not faster."""
    if row["form"] == "dense":
        return ""
    if row["form"] == "masked":
        return runtime.zeros
    slow = [str(batch) for batch in batches if row[f"times faster than dense, batch {batch}"] < FASTER]
    return f"no speed-up at batch {' and '.join(slow)}: multiplications do not take the time there" if slow else ""
