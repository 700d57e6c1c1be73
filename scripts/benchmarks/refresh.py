"""refresh: whether masks may be refreshed less often than at every step, by the top-1 of the same seeds.

Two one-sided t tests of the paired differences against 0.3 points; `--repeats` is the number of seeds on the digits;
clutter, where a run takes four times as long, gets half as many. The runs stay in outputs/refresh and are used again
by the next call.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import run_all
from midstate.common.errors import ConfigError
from midstate.common.project import ROOT
from midstate.study.statistics import equivalence

MARGIN = 0.3  # points of top-1
PRUNERS = {"nm_block": ("pruner=nm_block", "schedule=linear"), "nm": ("pruner=nm",)}
DATA = {"digits": ("data=digits", "trainer.batch_size=16"), "clutter": ("data=clutter",)}
SHARE_OF_SEEDS = {"digits": 1, "clutter": 0.5}
LEAST = 4  # seeds on the digits
ALWAYS, LONGER = "1it", ("10it", "1ep")


def measure(repeats: int) -> list[dict[str, Any]]:
    """One row a data set, pruner and longer interval."""
    if repeats < LEAST:
        raise ConfigError(f"--repeats={repeats}: must be {LEAST} or more; clutter gets half of it, and a test needs 2")
    rows = []
    for data in DATA:
        seeds = int(SHARE_OF_SEEDS[data] * repeats)
        for pruner in PRUNERS:
            always = _top1(data, pruner, ALWAYS, seeds)
            for every in LONGER:
                longer = _top1(data, pruner, every, seeds)
                test = equivalence(longer, always, MARGIN)
                rows.append(
                    {
                        "data": data,
                        "pruner": pruner,
                        "refresh": every,
                        "seeds": seeds,
                        "top-1 at every step (%)": round(mean(always), 2),
                        "difference (points)": round(test.effect, 2),
                        "90 % interval": f"{test.low:+.2f} to {test.high:+.2f}",
                        "TOST p": float(f"{test.p:.2g}"),
                        f"equivalent within {MARGIN}": test.equivalent,
                    }
                )
    return rows


def jobs(data: str, pruner: str, every: str, seeds: int) -> list[list[str]]:
    """Return the arguments of train.py for 1:16 on ResNet-8, seed by seed, with `every` between refreshes."""
    fixed = ["logger=none", "trainer.epochs=15", "trainer.probes=false", *DATA[data], *PRUNERS[pruner]]
    directory = ROOT / "outputs" / "refresh" / f"{data}_{pruner}_{every}"
    return [[*fixed, f"pruner.every={every}", f"seed={n}", f"run_dir={directory / f'seed{n}'}"] for n in range(seeds)]


def _top1(data: str, pruner: str, every: str, seeds: int) -> list[float]:
    arguments = jobs(data, pruner, every, seeds)
    directories = [Path(each[-1].removeprefix("run_dir=")) for each in arguments]
    directories[0].parent.mkdir(parents=True, exist_ok=True)
    status = run_all([(each, path.with_suffix(".log")) for each, path in zip(arguments, directories, strict=True)])
    if status:
        raise RuntimeError(f"status {status}: see the logs in {directories[0].parent}")
    return [json.loads((path / "summary.json").read_text())["top1"] for path in directories]
