"""fuzz: random overrides over all groups, valid and invalid: each run must finish, or be refused in one message."""

import random
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from midstate.common.errors import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED
from midstate.common.project import ROOT
from midstate.config.compose import compose_root
from midstate.config.schema import flatten
from midstate.study.process import exit_status, start_train

CONF = ROOT / "conf"
# Two steps of the smallest network; fuzzed overrides come later and take precedence.
SHORT = ("trainer.epochs=1", "trainer.max_steps_per_epoch=2", "trainer.batch_size=16")
SMALL = {
    "clutter": ("data.train_placements=1", "data.eval_placements=1"),
    "digits": (),
    "mnist5k": (),
    "fake": ("data.num_train=64", "data.num_eval=16", "data.size=16"),
}
# Settings that a preset needs: a size, or, where it begins with trained weights, the mode that does without them.
NEEDED = {"dense_small": ("pruner.density=0.5",), "asp": ("trainer.mode=train",), "domino": ("trainer.mode=train",)}
# Settings of which large values are valid, and only take long.
SIZES = ("trainer.epochs", "trainer.batch_size", "trainer.max_steps_per_epoch", "data.size", "data.num_train")
SIZES += ("data.num_eval", "data.resize", "data.train_placements", "data.eval_placements")
# Lengths of loops, which would never end with huge values.
COUNTS = ("trainer.epochs", "data.num_fragments")
# Data that would be downloaded, launchers of servers; below, whole groups that start no run or are for presets only.
LEFT_OUT = {
    "data": ("cifar10", "cifar100", "fashion_mnist", "kmnist", "mnist", "timm"),
    "launcher": ("pool", "ray", "slurm", "slurm_local"),
}
LEFT_OUT |= dict.fromkeys(
    ("claim", "experiment/base", "experiment/fashion", "experiment/paper", "pruner/window", "sweep")
)
KEPT = ("run_dir", "logger.mode", "model.pretrained", "trainer.compile")  # never fuzzed; the last takes a minute
# Values to try: numbers at the edges, other types, times, references, quoting, paths.
HUGE = ("4000000000", "1000000000000", "99999999999999999999")
ODD = (*HUGE, "0", "-1", "1", "2", "4", "16", "0.5", "0.9", "1.5")
ODD += ("1e30", "1e-30", "1e39", "nan", "inf", "null", "true", "abc", "''", "[]", "{}", "[1,2]", "{a:1}", "é", "../up")
ODD += ("1ep", "2it", "-1ep", "10it", "${seed}", "${nothing}")
SECONDS = 120  # a run that takes longer counts as hanging


def measure(times: int, seed: int) -> list[dict[str, Any]]:
    """Try `times` command lines; one row an outcome, defects first."""
    chance = random.Random(seed)
    lines = [overrides(chance) for _ in range(times)]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(2) as pool:
        tried = pool.map(lambda each: outcome(each[1], Path(place, str(each[0]))), enumerate(lines))
        for line, (result, said) in zip(lines, tqdm(tried, "command lines", total=times, disable=None), strict=True):
            outcomes[result] += 1
            if result.startswith("defect"):
                tqdm.write(f"{result}: {' '.join(line)}\n{said}")
    return [{"outcome": name, "command lines": count} for name, count in sorted(outcomes.items())]


def overrides(chance: random.Random) -> list[str]:
    """Draw up to three members of groups, then up to three of their settings: near, odd, misplaced, mistyped."""
    chosen = {group: chance.choice(_members(group)) for group in chance.sample(_groups(), chance.randint(0, 3))}
    if "experiment" not in chosen:
        chosen = {"model": "resnet8", "data": "fake", "logger": "none", **chosen}
    made = [f"{group}={member}" for group, member in chosen.items()]
    made += [*SHORT, *SMALL.get(chosen.get("data"), ()), *NEEDED.get(chosen.get("pruner"), ())]
    settings = _settings(made)
    for _ in range(chance.randint(0, 3)):
        key = chance.choice(list(settings))
        value = chance.choice(ODD if key not in COUNTS else [odd for odd in ODD if odd not in HUGE])
        if key not in SIZES and chance.random() < 0.8:
            value = chance.choice([_near(settings[key], chance)] * 3 + [_any(settings, chance)])
        made.append(f"{key}x={value}" if chance.random() < 0.04 else f"{key}={value}")
    return made


def outcome(line: list[str], directory: Path) -> tuple[str, str]:
    """Run one command line; return its outcome and its output. A defect neither finishes nor is refused cleanly."""
    log = directory.with_suffix(".log")
    process = start_train([*line, f"run_dir={directory}"], log)
    status, text = exit_status(process, SECONDS), log.read_text()
    found = _judged(status, text, directory)
    shutil.rmtree(directory, ignore_errors=True)
    log.unlink()
    return found, text


def _judged(status: int, text: str, directory: Path) -> str:
    if "Traceback" in text:
        return "defect: traceback"
    if status == EXIT_FINISHED:
        return "finished" if (directory / "summary.json").is_file() else "defect: finished without a summary"
    if status == EXIT_BAD_CONFIG:
        if directory.exists():
            return "defect: refused, and something was written"
        return "refused" if text.count("configuration error: ") == 1 else "defect: refused without one message"
    if status == EXIT_FAILED and text.count("run failed: ") == 1:
        return "failed in training, with one message"
    return f"defect: status {status}"


@cache
def _groups() -> list[str]:
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/**/*.yaml")}
    outside = {group for group, members in LEFT_OUT.items() if members is None}
    return sorted(group for group in found if not any(f"{group}/".startswith(f"{each}/") for each in outside))


@cache
def _members(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem not in LEFT_OUT.get(group, ()))


def _settings(line: list[str]) -> dict[str, Any]:
    """Return every setting beside these overrides, with its value; of the defaults where these do not compose."""
    try:
        config = compose_root(line)
    except (HydraException, OmegaConfBaseException):
        config = compose_root([])
    known = flatten(OmegaConf.to_container(config, resolve=False))
    return {key: value for key, value in known if key not in KEPT}


def _near(value: Any, chance: random.Random) -> str:
    """The value itself, or a neighbour of the same type."""
    if isinstance(value, bool):
        value = chance.random() < 0.5
    elif isinstance(value, int | float):
        value = chance.choice([value, value * 2, value / 2, value + 1, value - 1])
        value = int(value) if value == int(value) else value
    return _typed(value)


def _any(settings: dict[str, Any], chance: random.Random) -> str:
    return _typed(chance.choice(list(settings.values())))


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
