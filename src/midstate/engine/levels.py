"""Sensitivity by level: how much a finished network loses when one layer alone is at each of several levels.

| kind         | a level                                    | how the layer gets there                             |
|--------------|--------------------------------------------|------------------------------------------------------|
| `weights`    | weights that stay in use                   | the smallest go                                      |
| `filters`    | filters that stay in use                   | those of least L1 norm go                            |
| `nm`         | N of M neighbours along the input channels | all but the N largest of each group go               |
| `bits`       | bits of the weights                        | equal steps, symmetric, one step a layer (`Uniform`) |
| `input_bits` | bits of the inputs                         | equal steps, the clip of least squared error (`PACT`)|

Biases and BatchNorm stay as they are, and nothing is trained.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from midstate.common.numbers import floor
from midstate.common.seeds import seed_for
from midstate.data import Split
from midstate.engine.evaluate import evaluate
from midstate.engine.sensitivity import without_smallest
from midstate.quantization import PACT, Kind, Uniform, without_input_quantisers
from midstate.quantization.attached import NUM_CALIBRATED
from midstate.quantization.bits import FLOAT_BITS
from midstate.sparsity import NM, Layer, Sample, observe
from midstate.sparsity.observe import evaluation
from midstate.sparsity.tensors import input_of, with_input

KINDS = ("weights", "filters", "nm", "bits", "input_bits")
ORDERS = ("taylor", "hessian")  # orders of the loss's Taylor expansion, measured once for each layer
COLUMNS = (
    *("layer", "depth", "params", "macs", "kind", "level", "full", "removed", "loss_rise", "top1_drop"),
    *("taylor", "hessian_trace"),
)
Asked = Mapping[str, Sequence[Any]]  # by kind: shares to remove of the units in use; pairs (N, M); bits


@torch.no_grad()
def sensitivities_by_level(
    model: nn.Module,
    layers: Sequence[Layer],
    split: Split,
    asked: Asked,
    macs: Mapping[str, int],
    measured: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Measure every layer alone at every level.

    Args:
        model: finished and plain, with its quantisers of inputs if it has any; left as it was.
        layers: of the model.
        split: images to measure on.
        asked: levels by kind, see `Asked`.
        macs: multiply-accumulates of each layer on an image, by name.
        measured: called after each level.

    Returns:
        A row for each layer, kind and level: `level`, `full` (the level of the unchanged layer), `removed` (share of
        its weights in use), `loss_rise` in nats and `top1_drop` in points, both positive where the network got worse.
        A layer whose module is never called has no rows of `input_bits`.
    """
    before, rows = evaluate(model, split), []
    called = _called(model, layers, split.images) if "input_bits" in asked else set()
    for layer in layers:
        facts = {**facts_of(layer), "macs": macs.get(layer.name, 0)}
        for kind, each in _of(layer, asked):
            if kind != "input_bits" or layer.name in called:
                with _at(model, layer, kind, each, split.images) as (level, full, removed):
                    after = evaluate(model, split)
                row = {**facts, "kind": kind, "level": level, "full": full, "removed": removed}
                rows.append({**row, **_harm(before, after)})
            measured()
    return rows


def _harm(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {"loss_rise": after["loss"] - before["loss"], "top1_drop": before["top1"] - after["top1"]}


def _of(layer: Layer, asked: Asked) -> Iterator[tuple[str, Any]]:
    return ((kind, each) for kind, levels in asked.items() if has_kind(layer, kind) for each in levels)


def _called(model: nn.Module, layers: Sequence[Layer], images: Tensor) -> set[str]:
    """Names of the layers whose module is called; other weights, as of attention's out_proj, go to a function."""
    called: set[str] = set()
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_before(layer.module, lambda *_, name=layer.name: called.add(name)))
        with evaluation(model):
            model(images[:1])
    return called


def facts_of(layer: Layer) -> dict[str, Any]:
    """Name, depth and number of weights of a layer."""
    return {"layer": layer.name, "depth": layer.depth, "params": layer.weight.numel()}


def has_kind(layer: Layer, kind: str) -> bool:
    """Tell whether a layer has levels of a kind; an attention module's own tensors have no `input_bits`."""
    return kind != "input_bits" or layer.tensor_name == "weight"


def expansions(
    model: nn.Module, layers: Sequence[Layer], split: Split, orders: Sequence[str], seed: int
) -> list[dict[str, float]]:
    """Measure first- and second-order sensitivity of the loss to each layer's weights, at their present values.

    Quantisers of inputs are off meanwhile: rounding has no gradient, so that layers before it would have none.

    Args:
        model: finished; left as it was.
        layers: of the model.
        split: images to measure on.
        orders: `taylor`, `hessian` or both.
        seed: of the random vectors.

    Returns:
        For each layer: `taylor`, the sum of (w * gradient)^2, as the criterion adds up a filter's; `hessian_trace`,
        Hutchinson's estimate of the trace of the layer's block of the Hessian.
    """
    found: list[dict[str, float]] = [{} for _ in layers]
    sample = Sample(split.images, split.labels)
    with without_input_quantisers(model):
        if "taylor" in orders:
            for row, layer, slope in zip(found, layers, observe.gradients(model, layers, sample), strict=True):
                row["taylor"] = float((layer.weight.detach() * slope).double().square().sum())
        if "hessian" in orders:
            draws = [Generator().manual_seed(seed_for(seed, "hutchinson", i)) for i in range(len(layers))]
            traces = observe.hessian_traces(model, layers, sample, draws, observe.NUM_VECTORS)
            for row, trace in zip(found, traces, strict=True):
                row["hessian_trace"] = float(trace)
    return found


@contextmanager
def _at(model: nn.Module, layer: Layer, kind: str, asked: Any, images: Tensor) -> Iterator[tuple[int, int, float]]:
    """Put one layer at a level inside the context; yields the level, the full level, and the share removed."""
    if kind == "input_bits":
        with _rounded_inputs(model, layer, asked, images):
            yield asked, FLOAT_BITS, 0.0
        return
    weight = layer.weight.detach()
    original = weight.clone()
    level, full, changed = _CHANGED[kind](original, asked)
    in_use, left = int(original.count_nonzero()), int(changed.count_nonzero())
    weight.copy_(changed)
    try:
        yield level, full, 0.0 if kind == "bits" else (in_use - left) / max(1, in_use)
    finally:
        weight.copy_(original)


def _fewer_weights(weight: Tensor, share: float) -> tuple[int, int, Tensor]:
    in_use = int(weight.count_nonzero())
    gone = floor(share * in_use)
    return in_use - gone, in_use, without_smallest(weight, gone)


def _fewer_filters(weight: Tensor, share: float) -> tuple[int, int, Tensor]:
    norms = weight.flatten(1).abs().sum(1)
    in_use = int(norms.count_nonzero())
    gone = floor(share * in_use)
    kept = without_smallest(norms, gone) != 0
    return in_use - gone, in_use, weight * kept.view(-1, *[1] * (weight.dim() - 1))


def _nm(weight: Tensor, pair: tuple[int, int]) -> tuple[int, int, Tensor]:
    pattern = NM(*pair)
    return pattern.n, pattern.m, weight * pattern.mask(weight.abs(), pattern.n)


def _fewer_bits(weight: Tensor, bits: int) -> tuple[int, int, Tensor]:
    grid = Uniform()
    memory = grid.memory(weight, bits)
    grid.fit(weight, bits, memory)
    return bits, FLOAT_BITS, grid.quantise(weight, bits, memory)


_CHANGED = {"weights": _fewer_weights, "filters": _fewer_filters, "nm": _nm, "bits": _fewer_bits}


@contextmanager
def _rounded_inputs(model: nn.Module, layer: Layer, bits: int, images: Tensor) -> Iterator[None]:
    """Round a layer's inputs to `bits` inside the context, after a quantiser that they may already have."""
    seen: list[Tensor] = []
    with _before(layer.module, lambda *given: seen.append(input_of(*given))), evaluation(model):
        model(images[:NUM_CALIBRATED])
    kind = Kind(bits, bool((seen[0] < 0).any()), weights=False)
    memory = PACT().memory(seen[0], kind)
    PACT().start(seen[0], kind, memory)
    rounded = PACT().fixed(kind, memory).to(images.device)
    with _before(layer.module, lambda *given: with_input(*given, rounded)):
        yield


@contextmanager
def _before(module: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    hook = module.register_forward_pre_hook(call, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
