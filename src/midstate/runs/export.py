"""Export of a finished run: read it, convert it to a format, write all files or none."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from midstate.common.errors import ConfigError, RunFailed, user_errors
from midstate.common.files import write_together
from midstate.distributed.machine import enough_memory
from midstate.formats.onnx import check_installed
from midstate.models.original import call_of
from midstate.quantization import without_input_quantisers
from midstate.runs.export_formats import FORMATS, Finished
from midstate.runs.files import EXPORT
from midstate.runs.finished import read_finished, rebuild, set_threads

COMPARED = 16  # test images on which outputs are compared
RESULTS = ("top1", "sparsity", "pattern_verified", "params_total", "params_nonzero", "config_hash", "seed")
NOT_OF_THE_NETWORK = ("machine", "logger", "launcher")  # nodes of the configuration


def export_run(directory: Path, kind: str, folder: Path | None = None, **options: Any) -> str:
    """Write a finished run's network in a format.

    Args:
        directory: the run's.
        kind: one of FORMATS.
        folder: for the files; None: `export` in the run's directory.
        **options: `dtype` of semi_structured, `extracted` of onnx.

    Returns:
        Text to print; its last line names the file.

    Raises:
        ConfigError: there is no finished run, a needed library is missing, or the format cannot hold the network.
        RunFailed: the files cannot be written, or memory has run out.
    """
    folder = folder or directory / EXPORT
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out={folder}: is a file; name a directory")
    if kind == "onnx":
        with user_errors("format=onnx"):
            check_installed()  # before anything is read
    with enough_memory():
        run = _read(directory)
        with user_errors(f"{directory}: format={kind}"):
            made = FORMATS[kind](run, **options)
    try:
        write_together({folder / name: content for name, content in made.files.items()})
    except OSError as error:
        raise RunFailed(f"{folder}: cannot be written ({error.strerror or error})") from error
    sizes = [f"{folder / name}: {len(content):,} bytes" for name, content in made.files.items()]
    return "\n".join([*made.told, *sizes, f"file: {folder / list(made.files)[-1]}"])


def _read(directory: Path) -> Finished:
    summary, config = read_finished(directory)
    set_threads(directory, config)
    model, data = rebuild(directory, config)
    with without_input_quantisers(model):
        call, of_library = call_of(config["model"], model, data.shape[0], data.num_classes)
    recipe = {
        "made_by": f"midstate {version('midstate')}, torch {torch.__version__}",
        "network": call,
        "image": list(data.shape),
        "classes": data.num_classes,
        "result": {name: summary[name] for name in RESULTS if name in summary},
        "config": {name: value for name, value in config.items() if name not in NOT_OF_THE_NETWORK},
    }
    return Finished(directory, model, data.test.first(COMPARED).images, call, of_library, recipe)
