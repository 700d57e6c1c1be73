"""A table of the latencies of a network's layers, measured on this machine; quantizer.budget=latency reads it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from midstate.common import checks
from midstate.common.errors import ConfigError, RunFailed, user_errors
from midstate.common.files import write_atomically
from midstate.config.building import build
from midstate.config.compose import composed
from midstate.config.explain import explain, is_users
from midstate.config.overrides import check_command_line
from midstate.distributed.machine import enough_memory, keep_freed_memory, processor_name
from midstate.engine.latency import KERNELS, latencies
from midstate.quantization.bits import REFERENCE_BITS
from midstate.runs.finished import read_finished, rebuild
from midstate.sparsity import weight_layers

WEIGHT_BITS = range(1, 9)
INPUT_BITS = range(2, 9)


def make_table(
    typed: Sequence[str],
    file: Path,
    kernel: str = KERNELS[0],
    weight_bits: Sequence[int] = WEIGHT_BITS,
    input_bits: Sequence[int] = INPUT_BITS,
) -> str:
    """Time every layer of a network for one image, on one thread, and write the table.

    Args:
        typed: overrides that choose network and data as `train.py` takes them, or the directory of a finished run.
        file: to write.
        kernel: see `engine.latency`.
        weight_bits: bits of weights, 1 to 8, timed in all pairs with `input_bits`.
        input_bits: bits of inputs, 2 to 8.

    Returns:
        Text to print.

    Raises:
        ConfigError: the kernel or bits are not allowed, there is no such network, or it cannot be timed.
        RunFailed: the file cannot be written, or memory has run out.
    """
    with user_errors("latency"):
        checks.one_of("kernel", kernel, KERNELS)
        for name, bits, low in (("weight_bits", weight_bits, 1), ("input_bits", input_bits, 2)):
            for each in bits:
                checks.integer(name, each, low, 8)
    if file.is_dir():
        raise ConfigError(f"--out={file}: is a directory; name a file")
    model, image, name = _network(typed)
    pairs = sorted({(w, a) for w in weight_bits for a in input_bits} | {REFERENCE_BITS})
    torch.set_num_threads(1)
    keep_freed_memory()
    with (
        enough_memory(),
        user_errors(name),
        tqdm(total=len(weight_layers(model)), desc="latency", unit="layer", disable=None) as bar,
    ):
        layers = latencies(model, image, kernel, pairs, bar.update)
    content = {"unit": "us", **_facts(kernel, name, image), "layers": layers}
    try:
        write_atomically(file, (_as_text(content) + "\n").encode())
    except OSError as error:
        raise RunFailed(f"{file}: cannot be written ({error.strerror or error})") from error
    return "\n".join([*_told(layers, pairs), f"written: {file}"])


def _network(typed: Sequence[str]) -> tuple[nn.Module, Tensor, str]:
    """Return a network on the CPU in evaluation mode, one validation image (1, C, H, W), and the network's name."""
    if len(typed) == 1 and "=" not in typed[0]:
        directory = Path(typed[0])
        summary, config = read_finished(directory)
        model, data = rebuild(directory, config)
        return model, data.validation.first(1).images, summary["model"]
    try:
        check_command_line(list(typed))
        config = composed(*typed)
    except Exception as error:
        if not is_users(error):
            raise
        raise ConfigError(explain(error)) from error
    recipe, source = build(config, "model"), build(config, "data")
    with user_errors("data"):
        data = source.load()
    with user_errors("model", Exception):  # other libraries raise many kinds for bad arguments
        model = recipe.create(data.shape[0], data.num_classes)
    return (
        model.eval(),
        data.validation.first(1).images,
        next((t[6:] for t in typed if t.startswith("model=")), "model"),
    )


def _facts(kernel: str, name: str, image: Tensor) -> dict[str, Any]:
    """Facts that the times depend on."""
    return {
        "kernel": kernel,
        "model": name,
        "input": list(image.shape[1:]),
        "batch_size": len(image),
        "threads": 1,
        "device": "cpu",
        "processor": processor_name(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _as_text(content: dict[str, Any]) -> str:
    """JSON with one line per layer, easy to read."""
    facts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items() if key != "layers"]
    layers = [f"    {json.dumps(name)}: {json.dumps(layer)}" for name, layer in content["layers"].items()]
    return "{\n" + ",\n".join(facts) + ',\n  "layers": {\n' + ",\n".join(layers) + "\n  }\n}"


def _told(layers: dict[str, dict[str, Any]], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Lines to print: time of the whole network at a few pairs of bits, and the slowest layer."""
    shown = [pair for pair in (pairs[0], (4, 4), (4, 8), (8, 8)) if pair in pairs]
    totals = {f"{w},{a}": sum(layer["us"][f"{w},{a}"] for layer in layers.values()) for w, a in [*shown, (32, 32)]}
    slowest = max(layers, key=lambda name: layers[name]["us"]["8,8"])
    return [
        f"microseconds an image, by bits of weights and inputs: {', '.join(f'{k}: {v}' for k, v in totals.items())}",
        f"slowest layer at 8,8: {slowest} ({layers[slowest]['us']['8,8']})",
    ]
