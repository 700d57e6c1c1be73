"""Sensitivity of a finished run by layer and level: a table, a figure, and a few lines that sum them up."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from midstate.common import checks
from midstate.common.correlations import partial_rank_correlation, rank_correlation
from midstate.common.errors import ConfigError, RunFailed, user_errors
from midstate.common.files import write_csv
from midstate.compaction import weight_uses
from midstate.data import Images, Split
from midstate.distributed.machine import enough_memory, keep_freed_memory
from midstate.engine.levels import COLUMNS, KINDS, ORDERS, expansions, facts_of, has_kind, sensitivities_by_level
from midstate.quantization import without_input_quantisers
from midstate.runs.finished import read_finished, rebuild, set_threads
from midstate.sparsity import Layer, weight_layers

NAME = "sensitivity_by_level"
SHARES = (0.25, 0.5, 0.75, 0.9, 1.0)  # of non-zero weights removed; without 1.0, of filters
BITS = (2, 3, 4, 8)
M = 8  # of N:M, if the run has no M
NUM_IMAGES = 1000  # validation images, at most


def measure_run(
    directory: Path, kinds: Sequence[str], typed: Sequence[str], num_images: int = NUM_IMAGES, out: Path | None = None
) -> str:
    """Measure a finished run's layers on validation images, write the table and the figure.

    Args:
        directory: of the run.
        kinds: names from `KINDS` and `ORDERS` to measure; empty: all.
        typed: levels that replace the defaults, such as `weights=0.5,0.9`, `nm=2:8` and `bits=2,4`.
        num_images: validation images to measure on, at most.
        out: directory for the table and figures/; None: the run's.

    Returns:
        Text to print.

    Raises:
        ConfigError: there is no finished run, or a kind, a level or `num_images` is not allowed.
        RunFailed: a table cannot be written, or memory has run out.
    """
    with user_errors("--kinds"):
        kinds = [checks.one_of("kind", kind, (*KINDS, *ORDERS)) for kind in kinds] or [*KINDS, *ORDERS]
    with user_errors("--images"):
        checks.integer("images", num_images, 1)
    given = levels_of(typed)
    if unused := sorted(set(given) - set(kinds)):
        raise ConfigError(f"--levels: {unused[0]} is not among the kinds that are measured, {', '.join(kinds)}")
    summary, config = read_finished(directory)
    asked = {kind: given.get(kind) or default_levels(kind, config) for kind in KINDS if kind in kinds}
    out = out or directory
    set_threads(directory, config)
    keep_freed_memory()
    with enough_memory():
        rows = _measured(*_on_device(*rebuild(directory, config)), asked, kinds, num_images, config["seed"])
    title = f"{summary.get('model_name', summary['model'])} {summary['data']} {directory.name}"
    try:
        write_csv(out / f"{NAME}.csv", COLUMNS, rows)
        _draw(rows, out / "figures", title)
    except OSError as error:
        raise RunFailed(f"{out}: cannot be written ({error.strerror or error})") from error
    return "\n".join([*told(rows), f"written: {out / NAME}.csv, figures/{NAME}.png and .svg"])


def levels_of(typed: Sequence[str]) -> dict[str, list[Any]]:
    """Parse typed levels, by kind.

    Raises:
        ConfigError: a kind is unknown, or a value is no level of its kind.
    """
    found = {}
    for each in typed:
        kind, _, values = each.partition("=")
        with user_errors(f"--levels {each}"):
            checks.one_of("kind", kind, KINDS)
            found.setdefault(kind, []).extend(_level(kind, value) for value in values.split(","))
    return found


def _level(kind: str, text: str) -> Any:
    if kind == "nm":
        pair = re.fullmatch(r"(\d+):(\d+)", text)
        if not pair or not 1 <= int(pair[1]) <= int(pair[2]):
            raise ValueError(f"{text!r}: must be N:M, such as 2:8")
        return int(pair[1]), int(pair[2])
    if kind in ("weights", "filters"):
        try:
            return checks.number(kind, float(text), 0, 1)
        except ValueError as error:
            raise ValueError(f"{text!r}: must be a share that goes, from 0 to 1") from error
    if text not in map(str, range(2, 9)):
        raise ValueError(f"{text!r}: must be bits from 2 to 8")
    return int(text)


def default_levels(kind: str, config: Mapping[str, Any]) -> list[Any]:
    """Default levels of a kind; for N:M, N is each power of two below the run's M."""
    if kind == "nm":
        m = config["pruner"].get("m") or M
        return [(2**k, m) for k in range(max(1, math.ceil(math.log2(m))))]
    return list({"weights": SHARES, "filters": SHARES[:-1]}.get(kind, BITS))


def _on_device(model: nn.Module, data: Images) -> tuple[nn.Module, Images]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), data.to(device)


def _measured(
    model: nn.Module, data: Images, asked: Mapping[str, Any], kinds: Sequence[str], num_images: int, seed: int
) -> list[dict[str, Any]]:
    """Rows of the table; one row per layer if only `ORDERS` are measured."""
    split, layers = data.validation.first(num_images), weight_layers(model)
    macs = _macs(model, layers, split)
    total = sum(len(levels) * has_kind(layer, kind) for layer in layers for kind, levels in asked.items())
    with tqdm(total=total, desc="sensitivity", unit="level", disable=None) as bar:
        rows = sensitivities_by_level(model, layers, split, asked, macs, bar.update)
    found = expansions(model, layers, split, kinds, seed)
    by_name = {layer.name: each for layer, each in zip(layers, found, strict=True)}
    rows = rows or [{**facts_of(layer), "macs": macs[layer.name], "kind": ""} for layer in layers]
    return [{**row, **by_name[row["layer"]]} for row in rows]


def _macs(model: nn.Module, layers: Sequence[Layer], split: Split) -> dict[str, int]:
    with without_input_quantisers(model):
        uses = weight_uses(model, split.images[:2])
    return {layer.name: layer.weight.numel() * uses.get(layer.name, 0) for layer in layers}


def told(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each kind and each order: the most and least sensitive layer, and the correlation with depth."""
    lines = []
    for kind in KINDS:
        if layers := means(rows, kind):
            lines.append(f"{kind}: {_in_words(layers, 'loss_rise', ' nats')}")
    layers = list({row["layer"]: row for row in rows}.values())
    return lines + [f"{name}: {_in_words(layers, name)}" for name in COLUMNS[-2:] if name in layers[0]]


def means(rows: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """One row per layer: its mean `loss_rise` over those levels of a kind that remove something but not everything."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == kind and row["level"] > 0 and (row["removed"] > 0 or "bits" in kind):
            layers.setdefault(row["layer"], []).append(row)
    return [{**each[0], "loss_rise": sum(row["loss_rise"] for row in each) / len(each)} for each in layers.values()]


def _in_words(layers: Sequence[Mapping[str, Any]], name: str, unit: str = "") -> str:
    """The most and least sensitive layer, and rank correlations with depth if there are three layers or more."""
    most, least = (pick(layers, key=lambda row: row[name]) for pick in (max, min))
    ends = f"most sensitive {most['layer']} ({most[name]:.4g}{unit}), least {least['layer']} ({least[name]:.4g}{unit})"
    values, depth = [row[name] for row in layers], [row["depth"] for row in layers]
    if len(layers) < 3 or not all(map(math.isfinite, values)):
        return ends
    sizes = [math.log(row["params"]) for row in layers]
    plain, partial = rank_correlation(depth, values), partial_rank_correlation(depth, values, sizes)
    return f"{ends}; rank correlation with depth {plain:+.2f}, given log parameters {partial:+.2f}"


def _draw(rows: list[dict[str, Any]], folder: Path, title: str) -> None:
    from midstate.runs.sensitivity_figure import draw  # matplotlib takes a second to import

    draw(rows, folder, NAME, title)
