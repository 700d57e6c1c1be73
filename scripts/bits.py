"""A check of changes that must not change a number: every preset and many arms, run briefly, compared bit by bit.

python scripts/bits.py BEFORE                  on the old code
python scripts/bits.py AFTER --against BEFORE  on the new code: prints what differs; the exit status is then 1

Weights, masks, optimizers, random states, tables and summaries are compared; times and commits are not. The runs
use nothing but train.py, conf and tests/arms.yaml, so that the inside of the package may move. Numbers also depend on
the processor and the versions of libraries: make both folders on one machine.
"""

import argparse
import os
import runpy
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, get_context
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
# 20 steps on real digits. Settings that depend on the machine are pinned.
SHORT = [
    *("data=digits", "trainer.epochs=4", "trainer.max_steps_per_epoch=5", "logger=none", "rerun=true"),
    *("trainer.device=cpu", "trainer.threads=1", "trainer.precision=fp32", "machine.workers=1"),
]
NETWORK = "model.widths=[16,16,32]"  # for arms without a model of their own; takes half the time of the default
FIRST = ("dense", "filter", "domino")  # run first, in this order: other arms begin from their files
LIMIT = 300  # seconds for a run, then it is killed

server = get_context("forkserver")  # imports slow libraries, and no code of midstate, once for all runs
server.set_forkserver_preload(["torch", "torch._dynamo", "matplotlib.pyplot", "timm", "sklearn.datasets", "hydra.main"])


def arms() -> dict[str, list[str]]:
    """Return the arguments of train.py for every arm, by name; arms that others need come first."""
    listed = yaml.safe_load((ROOT / "tests" / "arms.yaml").read_text())
    presets = sorted(path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml"))
    found = {name: f"pruner={name} {listed['presets'].get(name, '')}" for name in presets}
    for name, arguments in {**listed["losses"], **listed["more"]}.items():
        if arguments.split() not in [each.split() for each in found.values()]:
            found[name if name not in found else f"{name} again"] = arguments
    ordered = [*FIRST, *(name for name in found if name not in FIRST)]
    return {name.replace(" ", "_"): found[name].split() for name in ordered}


def run(out: Path, chosen: dict[str, list[str]], jobs: int) -> list[str]:
    """Run arms below `out`; return the names of those that failed."""
    _images(out / "images")
    failed = [name for name in FIRST if name in chosen and not _run(out, name, chosen[name])]
    if failed:
        return failed
    _coarse(out / "dense" / "checkpoints" / "final.pt", out / "coarse.pt")
    others = [name for name in chosen if name not in FIRST]
    with ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(lambda name: _run(out, name, chosen[name]), others))
    return [name for name, good in zip(others, done, strict=True) if not good]


def _run(out: Path, name: str, arguments: list[str]) -> bool:
    process = server.Process(target=_train, args=(out, name, arguments))
    process.start()
    late = not connection.wait([process.sentinel], LIMIT)
    if late:
        process.kill()
    process.join()
    if process.exitcode:
        why = f"killed after {LIMIT} s" if late else f"status {process.exitcode}"
        log = out / f"{name}.log"
        print(f"{name}: {why}\n{log.read_text().strip() if log.is_file() else ''}", file=sys.stderr)
    return process.exitcode == 0


def _train(out: Path, name: str, arguments: list[str]) -> None:
    """Run train.py in this process, a child, with `out` as working directory and the code beside this script."""
    from matplotlib.figure import Figure

    Figure.savefig = lambda *_, **__: None  # figures are not compared, and take longer than all else
    os.chdir(out)
    sys.path.insert(0, str(ROOT / "src"))
    os.environ["PYTHONPATH"] = str(ROOT / "src")
    log = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    network = [] if any(each.startswith("model=") for each in arguments) else [NETWORK]
    sys.argv = [str(ROOT / "train.py"), *SHORT, *network, *arguments, f"run_dir={name}"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _images(root: Path) -> None:
    """Write images into folders: two classes that differ in colour."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, colour in (("blue", (30, 30, 200)), ("red", (200, 30, 30))):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = (draws.normal(0, 20, (24 + index, 40 - index, 3)) + colour).clip(0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{index:02}.png")


def _coarse(trained: Path, path: Path) -> None:
    """Save weights with many ties: each has its sign, and the mean magnitude of its layer."""
    import torch

    weights = torch.load(trained, weights_only=True)["model"]
    tied = {name: value.sign() * value.abs().mean() if value.dim() > 1 else value for name, value in weights.items()}
    torch.save(tied, path)


def compare(out: Path, before: Path, names: list[str]) -> dict[str, list[str]]:
    """Return what differs between two folders, by arm; arms without differences are left out."""
    sys.path.insert(0, str(ROOT / "src"))
    from faults.compare import differences

    found = {}
    for name in names:
        there = [place for place in (out, before) if not (place / name / "summary.json").is_file()]
        found[name] = [f"is not in {place}" for place in there] or differences(out / name, before / name)
    return {name: each for name, each in found.items() if each}


def main() -> None:
    """Run, and compare where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the runs, new or empty")
    parser.add_argument("--against", type=Path, default=None, help="folder of an earlier call, to be compared with")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--only", nargs="+", metavar="ARM", default=None, help="some arms, and what they begin from")
    parser.add_argument("--no-runs", action="store_true", help="compare what is there already")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs {arguments.jobs}: must be 1 or more")
    out, chosen = arguments.out.resolve(), arms()
    if unknown := [name for name in arguments.only or () if name not in chosen]:
        parser.error(f"--only: there is no {', '.join(unknown)}; the arms are {', '.join(chosen)}")
    chosen = {name: each for name, each in chosen.items() if name in (*FIRST, *(arguments.only or chosen))}
    if arguments.against and not arguments.against.is_dir():
        parser.error(f"--against {arguments.against}: is no folder")
    if not arguments.no_runs:
        if out.exists() and any(out.iterdir()):
            parser.error(f"{out}: is not empty; runs of other code would be taken for this one's")
        out.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        if failed := run(out, chosen, arguments.jobs):
            sys.exit(f"{len(failed)} of {len(chosen)} arms failed: {', '.join(failed)}")
        print(f"{len(chosen)} arms in {time.perf_counter() - started:.0f} s")
    if arguments.against:
        found = compare(out, arguments.against.resolve(), list(chosen))
        for name, each in found.items():
            print(f"{name}: {', '.join(each)}")
        print(f"{len(found)} of {len(chosen)} arms differ")
        sys.exit(bool(found))


if __name__ == "__main__":
    main()
