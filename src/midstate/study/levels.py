"""Bits and levels of the layers of a finished run, with depth, parameters and MACs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from midstate.compaction import weight_uses
from midstate.config.building import build
from midstate.runs.files import read_config
from midstate.sparsity import weight_layers

COLUMNS = ("layer", "depth", "params", "macs", "weight_bits", "activation_bits", "level")


def levels_of(directory: Path) -> list[dict[str, Any]]:
    """One row a layer with bits or a level, in order of depth; none where the run has no scheme.json.

    Args:
        directory: of a finished run, with config.yaml and scheme.json.
    """
    file = directory / "scheme.json"
    if not file.is_file():
        return []
    scheme = json.loads(file.read_text())
    bits, levels = scheme.get("bits") or {}, scheme.get("levels") or {}
    config = read_config(directory)
    sizes = _sizes(json.dumps({"model": _untrained(config["model"]), "data": config["data"]}))
    rows = []
    for depth, (name, (params, macs)) in enumerate(sizes.items()):
        if name in bits or name in levels:
            numbers = (name, depth, params, macs, *bits.get(name, (None, None)), levels.get(name))
            rows.append(dict(zip(COLUMNS, numbers, strict=True)))
    return rows


def _untrained(model: dict[str, Any]) -> dict[str, Any]:
    """A network's configuration without the weights that it begins with."""
    return {key: False if key == "pretrained" else each for key, each in model.items() if "checkpoint" not in key}


@cache
def _sizes(config: str) -> dict[str, tuple[int, int]]:
    """Parameters and MACs an image of every layer of a network, in the network's order."""
    composed = OmegaConf.create(json.loads(config))
    data = build(composed, "data").load()
    with torch.random.fork_rng(devices=[]):
        model = build(composed, "model").create(data.shape[0], data.num_classes)
    uses = weight_uses(model, torch.zeros(2, *data.shape))
    sizes = {layer.name: layer.weight.numel() for layer in weight_layers(model)}
    return {name: (params, params * uses.get(name, 1)) for name, params in sizes.items()}
