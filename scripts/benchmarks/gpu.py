"""gpu: checks of everything that a CUDA device does differently from a CPU: `scripts/gpu_suite.sh`.

Each check compares two ways in one process, or runs train.py, and says whether it holds, with the figures behind
that; an exception in one does not end the others. On a CPU (--device cpu) it shows that the checks themselves work.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import machine, prepared, timed
from benchmarks.mask import each_mask
from midstate import sparsity
from midstate.common.project import ROOT
from midstate.engine.session import Session
from midstate.engine.step import train_step
from midstate.sparsity import NM

STEPS = 12
PRUNERS = ("dense", "nm", "nm_step", "nm_block", "maxq", "sr_ste", "magnitude", "filter", "sfp", "fpgm", "wanda")
CHECKS: dict[str, Callable[["Size"], dict[str, Any]]] = {}


class Size:
    """Network and data of the checks: full size on a GPU, small on a CPU.

    Args:
        device: cuda or cpu.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        gpu = device == "cuda"
        self.model = ("model=resnet18",) if gpu else ("model=resnet8",)
        self.data = (
            "data=fake",
            f"data.num_train={1024 if gpu else 64}",
            "data.num_eval=64",
            f"trainer.batch_size={256 if gpu else 16}",
        )
        self.width = 512 if gpu else 64

    def session(self, *overrides: str) -> Session:
        """Prepare a run on the device, ready to take steps; memory is counted from here on."""
        gc.collect()  # what earlier checks held must not count
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        session = prepared(
            *(*self.model, *self.data, f"trainer.device={self.device}", "logger=none", "trainer.probes=false"),
            *("trainer.epochs=100", *overrides),
        )
        session.model.train()
        return session

    def run(self, *overrides: str) -> dict[str, Any]:
        """Train STEPS steps; return losses, images a second, and peak memory in GiB (None on a CPU)."""
        session = self.session(*overrides)
        seconds = take(session, STEPS)[STEPS // 2 :]  # the first half warms up
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None
        rate = len(seconds) * session.batches.batch_size / sum(seconds)
        return {"losses": session.losses, "images_per_second": round(rate, 1), "peak_gib": peak}


def take(session: Session, steps: int) -> list[float]:
    """Train until the run has made `steps` steps; return the seconds of each."""
    seconds = []
    while session.step < steps:
        epoch, first = divmod(session.step, session.batches.steps_per_epoch)
        for images, labels in session.batches.epoch(epoch, first):
            seconds.append(timed(lambda batch=(images, labels): train_step(session, *batch)))
            if session.step == steps:
                break
    return seconds


def check(call: Callable[[Size], dict[str, Any]]) -> Callable[[Size], dict[str, Any]]:
    """Add a check, which returns a dict with `holds`, to the list."""
    CHECKS[call.__name__] = call
    return call


@check
def masks_are_the_cpus(size: Size) -> dict[str, Any]:
    """Mask functions give on this device what they give on the CPU, also on weights with many ties."""
    generator = torch.Generator().manual_seed(0)
    differing = {}
    for shape in ((size.width, size.width, 3, 3), (size.width, size.width, 1, 1), (size.width, size.width)):
        weights = [torch.randn(shape, generator=generator), torch.randint(-2, 3, shape, generator=generator).float()]
        for i, weight in enumerate(weights):
            for name, masks in _functions().items():
                here, there = masks(weight.to(size.device)), masks(weight)
                if not torch.allclose(here.cpu().float(), there.float(), atol=1e-6):
                    differing[f"{name} {shape} {'ties' if i else 'normal'}"] = int((here.cpu() != there).sum())
    return {"holds": not differing, "differing": differing}


def _functions() -> dict[str, Callable[[Tensor], Tensor]]:
    ways = {f"nm_mask {n}:{m}": (lambda w, n=n, m=m: sparsity.nm_mask(w, n, m)) for n, m in ((2, 4), (1, 16), (8, 16))}
    for order in ("default", "inverse"):
        ways[f"block_nm_mask {order}"] = lambda w, order=order: sparsity.block_nm_mask(w, 1, 16, 0.4, order)
    return ways


@check
def losses_are_the_cpus(size: Size) -> dict[str, Any]:
    """The same steps in fp32 have the same losses on this device and on the CPU, but for the order of sums."""
    pair = {}
    for device in (size.device, "cpu"):
        small = Size("cpu")
        small.device = device
        pair[device] = small.run()["losses"]
    return _close(pair[size.device], pair["cpu"], 1e-2)


@check
def the_same_bits_twice(size: Size) -> dict[str, Any]:
    """Two runs have the same bits; required on a CPU only: CUDA's convolutions may sum in another order each time."""
    one, other = (size.run()["losses"] for _ in range(2))
    return {"holds": one == other or size.device == "cuda", "same_bits": one == other}


@check
def ways_to_train_agree(size: Size) -> dict[str, Any]:
    """bf16, fp16 with its scaler, channels last, compiled, averaged: losses beside those of fp32; speed and memory."""
    plain = size.run()
    ways = {
        "bf16": ("trainer.precision=bf16",),
        "fp16": ("trainer.precision=fp16",),
        "channels_last": ("trainer.channels_last=true",),
        "bf16, channels_last": ("trainer.precision=bf16", "trainer.channels_last=true"),
        "compile": ("trainer.compile=true",),
        "bf16, channels_last, compile": (
            "trainer.precision=bf16",
            "trainer.channels_last=true",
            "trainer.compile=true",
        ),
        "ema": ("trainer.ema=0.99",),
    }
    rows = [{"way": "fp32", "images_per_second": plain["images_per_second"], "peak_gib": plain["peak_gib"]}]
    for name, settings in ways.items():
        run = size.run(*settings)
        rows.append(
            {
                "way": name,
                "images_per_second": run["images_per_second"],
                "peak_gib": run["peak_gib"],
                **_close(run["losses"], plain["losses"], 0.05 if "16" in name else 1e-2),
            }
        )
    return {"holds": all(row.get("holds", True) for row in rows), "rows": rows}


@check
def every_method_trains(size: Size) -> dict[str, Any]:
    """Under bf16, masks of each preset that needs nothing else lie on the device, and finished weights obey them."""
    rows = []
    for pruner in PRUNERS:
        session = size.session(f"pruner={pruner}", "trainer.precision=bf16", "trainer.epochs=2")
        seconds = take(session, session.total_steps)
        session.pruner.refresh(session.step)
        on_device = all(mask.device.type == size.device for mask in session.pruner.masks)
        session.pruner.finalise()
        rows.append({"pruner": pruner, "holds": on_device and session.pruner.verify() is not False})
        rows[-1]["images_per_second"] = round(session.batches.batch_size / median(seconds), 1)
    return {"holds": all(row["holds"] for row in rows), "rows": rows}


@check
def a_checkpoint_goes_on(size: Size) -> dict[str, Any]:
    """In fp16, a state saved after half of the steps and loaded again leads near the losses of an uninterrupted run."""
    precision = "trainer.precision=fp16"
    whole = size.run(precision)["losses"]
    first = size.session(precision)
    take(first, STEPS // 2)
    second = size.session(precision)
    second.load_state_dict({"step": first.step, **first.state_dict()})
    same_scale = second.scaler.get_scale() == first.scaler.get_scale()
    take(second, STEPS)
    close = _close(second.losses, whole, 1e-2)
    return {**close, "holds": close["holds"] and same_scale, "same_bits": second.losses == whole}


@check
def fused_kernels(size: Size) -> dict[str, Any]:
    """N:M masks as training makes them, on a GPU by the Triton kernel, equal the CPU's; their time, in copies."""
    weight = torch.randn(size.width, size.width, 3, 3, generator=torch.Generator().manual_seed(0)).to(size.device)
    ways = {"copy": weight.clone, "mask": each_mask(NM(1, 16), [weight])}
    (made,) = ways["mask"]()
    same = made.view(weight.shape).cpu().equal(sparsity.nm_mask(weight.cpu(), 1, 16))
    times = {name: median(timed(call) for _ in range(20)) for name, call in ways.items()}
    return {"holds": same, "mask_ms": round(1e3 * times["mask"], 3), "copies": round(times["mask"] / times["copy"], 2)}


@check
def torchrun_with_one_process(size: Size) -> dict[str, Any]:
    """A whole run by torchrun, over NCCL on a GPU, BatchNorm synchronised there."""
    synchronised = ("trainer.sync_batchnorm=true",) if size.device == "cuda" else ()
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"),
                *(str(ROOT / "train.py"), *size.model, *size.data, f"trainer.device={size.device}", "logger=none"),
                *("trainer.epochs=2", "run_dir=run", *synchronised),
            ],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=600,
        )
        summary = Path(place, "run", "summary.json")
        status = json.loads(summary.read_text())["status"] if summary.exists() else done.stderr[-1000:]
    return {"holds": done.returncode == 0 and status == "finished", "status": status}


@check
def imagenet_sized(size: Size) -> dict[str, Any]:
    """ResNet-50 at 224x224, bf16, channels last: images a second and peak memory of a step, dense and 1:16."""
    large = Size(size.device)
    large.model = ("model=resnet50",) if size.device == "cuda" else ("model=resnet8",)
    large.data = ("data=fake", "data.num_train=256", "data.num_eval=32", "trainer.batch_size=128")
    large.data += ("data.size=224", "data.num_classes=1000") if size.device == "cuda" else ("data.num_classes=1000",)
    settings = ("trainer.precision=bf16", "trainer.channels_last=true")
    rows = []
    for pruner in ("dense", "nm_block", "maxq"):
        run = large.run(f"pruner={pruner}", *settings)
        rows.append({"pruner": pruner, **{key: run[key] for key in ("images_per_second", "peak_gib")}})
    return {"holds": True, "rows": rows}


def _close(losses: list[float], reference: list[float], tolerance: float) -> dict[str, Any]:
    """Tell whether losses are within a relative tolerance of `reference`, and the largest difference."""
    distance = max(abs(one - other) / abs(other) for one, other in zip(losses, reference, strict=True))
    return {"holds": distance <= tolerance, "largest_relative_difference": round(distance, 7), "allowed": tolerance}


def suite(device: str) -> dict[str, Any]:
    """Run all checks; {"machine", "checks": [{"check", "holds", ...}]}."""
    size, done = Size(device), []
    for name, call in CHECKS.items():
        started = time.perf_counter()
        try:
            result = call(size)
        except Exception:
            result = {"holds": False, "error": traceback.format_exc()}
        seconds = round(time.perf_counter() - started, 1)
        done.append({"check": name, **result, "seconds": seconds})
        print(f"{'holds ' if result['holds'] else 'BROKEN'}  {name}  ({seconds} s)", flush=True)
    about = machine()
    if device == "cuda":
        about |= {"cuda": torch.version.cuda, "capability": list(torch.cuda.get_device_capability())}
        about |= {"memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)}
    return {"device": device, "machine": about, "threads": os.cpu_count(), "checks": done}


def main() -> None:
    """Run the suite and write its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, required=True, help="file for the result")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; nothing was run and nothing is written (--device cpu tries the checks)")
    result = suite(arguments.device)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.json}")
    sys.exit(0 if all(each["holds"] for each in result["checks"]) else 1)


if __name__ == "__main__":
    main()
