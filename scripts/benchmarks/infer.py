"""infer: dense, masked and extracted networks in torch, onnxruntime, OpenVINO and, where there is one, on a GPU.

Four networks as if trained, without half of their coupled channels, and at 2:4; or `infer RUN ...`. Needs `.[bench]`.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import in_turn
from benchmarks.loaded import Loaded
from benchmarks.pruned import Form, Network, as_if_trained, forms_of, of_run
from benchmarks.resident import first_pass
from benchmarks.runtimes import Runtime, runtimes
from midstate.common.errors import first_line

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "vit_tiny_patch16_224")
BATCHES = (1, 64)
FASTER = 1.05  # smaller ratios are no speed-up
CALIBRATED = 4  # images for comparing ONNX files and for calibrating int8
NOTHING = "–"
Times = dict[int, dict[Form, float]]
Rows = list[dict[str, Any]]


def measure(repeats: int, runs: Sequence[Path] = ()) -> Rows:
    """One row a network, runtime and form; `repeats` passes of each form of a network in turn.

    Raises:
        ConfigError: a run is not finished, or has pruned nothing.
    """
    networks: Iterable[Network] = [of_run(run) for run in runs] if runs else map(as_if_trained, NETWORKS)
    rows = []
    for network in networks:
        for row in rows_of(network, repeats):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def shown(rows: Rows) -> Rows:
    """Return the rows as the page has them, without the equality of outputs, which must hold."""
    hidden = ("largest difference of outputs", "holds")
    return [{key: value for key, value in row.items() if key not in hidden} for row in rows]


@torch.no_grad()
def rows_of(network: Network, repeats: int, batches: Sequence[int] = BATCHES) -> Iterable[dict[str, Any]]:
    """Yield one row for each form in each runtime."""
    images = torch.randn(max(batches), *network.shape, generator=torch.Generator().manual_seed(0))
    forms = forms_of(network, images)
    for runtime in runtimes():
        if why := runtime.missing(network.dense):
            yield _row(network, runtime, None, batches) | {"why": why}
        else:
            yield from _in_runtime(network, runtime, forms, images, repeats, batches)


def _in_runtime(
    network: Network, runtime: Runtime, forms: list[Form], images: Tensor, repeats: int, batches: Sequence[int]
) -> Iterable[dict[str, Any]]:
    loaded, reasons = _loaded(runtime, forms, images[:CALIBRATED])
    images = images.to(runtime.device, runtime.dtype)
    passes = {form: _first(form, each, images, runtime) for form, each in loaded.items()}
    times = {batch: _seconds(loaded, images[:batch], repeats) for batch in batches}
    for form in forms:
        row = _row(network, runtime, form, batches)
        if form not in loaded:
            yield row | {"why": reasons[form]}
            continue
        row |= passes[form] | _rates(form, forms[0], times)
        yield row | {"why": loaded[form].note or _why(row, runtime, batches)}


def _loaded(runtime: Runtime, forms: list[Form], few: Tensor) -> tuple[dict[Form, Loaded], dict[Form, str]]:
    """Load the forms that the runtime takes; return also why it does not take the others."""
    loaded, reasons = {}, {form: form.why for form in forms if form.model is None}
    for form in forms:
        if form.model is not None:
            try:
                loaded[form] = runtime.loaded(form.model, few)
            except ValueError as error:
                reasons[form] = f"does not apply: {first_line(error)}"
    return loaded, reasons


def _row(network: Network, runtime: Runtime, form: Form | None, batches: Sequence[int]) -> dict[str, Any]:
    """Return a row before anything is measured."""
    row = {"network": network.name, "pruning": form.pruning if form else "all", "form": form.name if form else "all"}
    row |= {"runtime": runtime.name, "MACs, of dense": round(form.macs, 3) if form and form.model else NOTHING}
    for what in ("ms", "images/s", "times faster than dense"):
        row |= {f"{what}, batch {batch}": NOTHING for batch in batches}
    row |= {"weights (MiB)": NOTHING, f"a pass of {max(batches)}, peak (MiB)": NOTHING}
    return row | {"largest difference of outputs": NOTHING, "why": "", "holds": True}


def _first(form: Form, loaded: Loaded, images: Tensor, runtime: Runtime) -> dict[str, Any]:
    """Make the first pass; return the difference of its outputs, and its memory."""
    outputs, peak = first_pass(loaded.load, images)
    difference = float((outputs.float().cpu() - form.expected).abs().max() / form.expected.abs().max())
    return {
        "weights (MiB)": round(loaded.bytes / 2**20, 2),
        f"a pass of {len(images)}, peak (MiB)": "not measured" if peak is None else round(peak, 1),
        "largest difference of outputs": f"{difference:.0e}",
        "holds": runtime.tolerance is None or difference <= runtime.tolerance,
    }


def _seconds(loaded: dict[Form, Loaded], images: Tensor, repeats: int) -> dict[Form, float]:
    """Return the median seconds of a pass of each form, measured in turn."""
    return in_turn({form: partial(each.load(len(images)), images) for form, each in loaded.items()}, repeats)


def _rates(form: Form, dense: Form, times: Times) -> dict[str, Any]:
    rates: dict[str, Any] = {}
    for batch, seconds in times.items():
        rates[f"ms, batch {batch}"] = round(1e3 * seconds[form], 2)
        rates[f"images/s, batch {batch}"] = round(batch / seconds[form], 1)
        if dense in seconds:
            rates[f"times faster than dense, batch {batch}"] = round(seconds[dense] / seconds[form], 2)
    return rates


def _why(row: dict[str, Any], runtime: Runtime, batches: Sequence[int]) -> str:
    """Tell why a form is not faster; empty if it is."""
    if row["form"] == "dense":
        return ""
    if row["form"] == "masked":
        return runtime.zeros
    faster = {batch: row[f"times faster than dense, batch {batch}"] for batch in batches}
    slow = [str(batch) for batch, times in faster.items() if times != NOTHING and times < FASTER]
    return f"no speed-up at batch {' and '.join(slow)}: multiplications do not take the time there" if slow else ""
