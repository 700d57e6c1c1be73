"""Extraction of a finished run: read it, compare it with its summary, cut the network, write it."""

import time
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from midstate.common.errors import ConfigError, RunFailed, first_line, user_errors
from midstate.common.files import write_atomically
from midstate.compaction import counting
from midstate.compaction.extracting import extract
from midstate.distributed.machine import enough_memory, keep_freed_memory
from midstate.runs.finished import read_finished, rebuild, set_threads
from midstate.sparsity import weight_layers

REPEATS = 15  # timed passes of each network, at most
MOST_SECONDS = 20  # for all timed passes; each network gets at least one
SUFFIX = ".pt2"  # expected by torch.export
COUNTED = ("params_sparse", "macs_sparse")


def extract_run(directory: Path, file: Path, batch_size: int = 64) -> str:
    """Extract a finished run's network, and write it.

    Args:
        directory: the run's.
        file: to write: a program of torch.export for batches of any size.
        batch_size: test images in a timed pass, at most.

    Returns:
        Text to print: a table, the measurements and the path of the file.

    Raises:
        ConfigError: there is no finished run, its network has nothing to remove or cannot be extracted, its weights do
            not match its summary, or `file` is no regular file whose name ends in `.pt2`.
        RunFailed: the file cannot be written, or memory has run out.
    """
    summary, config = _read(directory)
    if file.suffix != SUFFIX or (file.exists() and not file.is_file()):  # never overwrite a result or a device
        raise ConfigError(f"--output={file}: must be a file whose name ends in {SUFFIX}")
    set_threads(directory, config)
    keep_freed_memory()
    with enough_memory():
        model, data = rebuild(directory, config)
        masked = _counted(model, data.shape)
        _check_reported(directory, summary, masked)
        with user_errors(str(directory)):
            network = extract(model, data.shape)
        images = data.test.first(batch_size).images
        content = exported(directory, network, images)
        told = _table(summary, masked, _counted(network, data.shape)) + _measured(model, network, images)
    try:
        write_atomically(file, content)
    except OSError as error:
        raise RunFailed(f"{file}: cannot be written ({error.strerror or error})") from error
    return "\n".join([*told, f"written: {file}"])


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Summary and configuration of a finished run that has pruned something."""
    summary, config = read_finished(directory)
    if summary.get("pattern_verified") is None:
        raise ConfigError(f"{directory}: a dense run; nothing was pruned, so there is nothing to remove")
    return summary, config


def _counted(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int | float]:
    layers, first = weight_layers(model), next(model.parameters())
    uses = counting.weight_uses(model, torch.zeros(2, *shape, dtype=first.dtype))
    return counting.count(model, layers, [1.0] * len(layers), False, uses, shape)


def _check_reported(directory: Path, summary: dict[str, Any], found: dict[str, int | float]) -> None:
    """Refuse weights that do not match the summary; older summaries lack these fields and are not checked."""
    for name in COUNTED:
        if name in summary and summary[name] != found[name]:
            raise ConfigError(
                f"{directory}: its summary says {name}={summary[name]}, its weights {found[name]}; one of them was "
                "changed, and rerun=true makes both anew"
            )


def exported(directory: Path, network: nn.Module, images: Tensor) -> bytes:
    """Return the content of a torch.export file, after reading it back and comparing its outputs on `images`."""
    buffer = BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        try:
            two = images[:2] if len(images) > 1 else images.expand(2, -1, -1, -1)  # a batch of 1 would be fixed
            program = torch.export.export(network, (two,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            torch.export.save(program, buffer)
            found = torch.export.load(BytesIO(buffer.getvalue())).module()(images)
            torch.testing.assert_close(found, network(images))
        except Exception as error:  # torch.export raises many kinds
            raise ConfigError(f"{directory}: torch.export cannot take this network ({first_line(error)})") from error
    return buffer.getvalue()


def _table(summary: dict[str, Any], masked: dict[str, Any], small: dict[str, Any]) -> list[str]:
    """Parameters and MACs, as a Markdown table."""
    rows = [
        ("dense", masked["params_total"], masked["macs_dense"]),
        ("masked, as reported", *(summary.get(name, masked[name]) for name in COUNTED)),
        ("extracted, not zero", small["params_nonzero"], small["macs_sparse"]),
        ("extracted, as stored", small["params_total"], small["macs_dense"]),
    ]
    lines = ["| network | parameters | MACs an image |", "|---|---|---|"]
    lines += [f"| {name} | {params:,} | {macs:,} |" for name, params, macs in rows]
    if any(more > less for more, less in zip(rows[2][1:], rows[1][1:], strict=True)):
        lines.append("more than reported: layers of other libraries' own kinds are kept whole")
    elif rows[1][1:] != rows[2][1:]:
        lines.append("less than reported: layers that nothing reads any more, or that read nothing, are not run")
    return [*lines, ""]


@torch.no_grad()
def _measured(model: nn.Module, network: nn.Module, images: Tensor) -> list[str]:
    """Lines on output difference and time of a pass; passes alternate, so that both networks see the same load."""
    seconds: tuple[list[float], list[float]] = ([], [])
    expected, found = model(images), network(images)
    begun = time.perf_counter()
    while len(seconds[0]) < REPEATS and time.perf_counter() - begun < MOST_SECONDS:
        for each, times in zip((model, network), seconds, strict=True):
            started = time.perf_counter()
            each(images)
            times.append(time.perf_counter() - started)
    masked, small = map(min, seconds)  # the minimum: least disturbed by other processes
    return [
        f"largest output difference: {float((expected - found).abs().max()):.2g}, where outputs reach "
        f"{float(expected.abs().max()):.3g} ({len(images)} test images)",
        f"a pass of {len(images)} images, the fastest of {len(seconds[0])}: {1e3 * masked:.1f} ms masked, "
        f"{1e3 * small:.1f} ms extracted; speedup {masked / small:.2f}",
    ]
