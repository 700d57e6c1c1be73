"""fuzz: random overrides over all groups, valid and invalid: each trains and finishes, or is refused in one message."""

import random
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tqdm import tqdm

from midstate.bench.common import ROOT
from midstate.cli import EXIT_BAD_CONFIG, EXIT_FAILED, EXIT_FINISHED
from midstate.config import flatten
from midstate.reproduce.process import exit_status, start_train

CONF = ROOT / "conf"
# Two steps of the smallest network; what a fuzzed override sets wins, for it comes later.
SHORT = (
    *("model=resnet8", "data=fake", "data.num_train=64", "data.num_eval=16", "data.size=16", "logger=none"),
    *("trainer.epochs=1", "trainer.max_steps_per_epoch=2", "trainer.batch_size=16"),
)
# Sizes that are valid and only take long, and data that needs a download.
HEAVY = ("trainer.epochs", "trainer.batch_size", "trainer.max_steps_per_epoch", "data.size", "data.num_train")
SLOW = {"data": ("cifar10", "cifar100"), "model": ("resnet18", "resnet56", "torchvision", "timm"), "logger": ("wandb",)}
SLOW |= {"launcher": ("pool",), "experiment": (), "claim": ()}
ODD = ("0", "-1", "1", "2", "0.5", "1.5", "1e30", "1e-30", "nan", "inf", "null", "true", "abc", "''", "[]", "{}")
ODD += ("1ep", "2it", "-1ep", "10it", "é", "${seed}", "${nothing}", "16", "4", "0.9")
SECONDS = 120  # a run that takes longer hangs


def measure(times: int, seed: int) -> list[dict[str, Any]]:
    """Try `times` command lines; one row an outcome, defects first."""
    chance, keys = random.Random(seed), _keys()
    lines = [overrides(chance, keys) for _ in range(times)]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(2) as pool:
        tried = pool.map(lambda each: outcome(each[1], Path(place, str(each[0]))), enumerate(lines))
        for line, result in zip(lines, tqdm(tried, "command lines", total=times, disable=None), strict=True):
            outcomes[result] += 1
            if result.startswith("defect"):
                print(f"{result}: {' '.join(line)}", flush=True)
    return [{"outcome": name, "command lines": count} for name, count in sorted(outcomes.items())]


def overrides(chance: random.Random, keys: dict[str, Any]) -> list[str]:
    """One to four overrides: members of groups, values that are near, odd or of another key, and typos."""
    made = []
    for _ in range(chance.randint(1, 4)):
        kind = chance.random()
        if kind < 0.4:
            group = chance.choice(_groups())
            members = [path.stem for path in (CONF / group).glob("*.yaml") if path.stem not in SLOW.get(group, ())]
            made.append(f"{group}={chance.choice(members)}")
        else:
            key = chance.choice([key for key in keys if key not in HEAVY])
            value = chance.choice([keys[key], chance.choice(ODD), chance.choice(list(keys.values()))])
            made.append(f"{key}={_typed(value)}" if kind < 0.95 else f"{key}x={_typed(value)}")
    return made


def outcome(line: list[str], directory: Path) -> str:
    """Run one command line: what came of it; a defect is whatever is neither finished nor refused cleanly."""
    log = directory.with_suffix(".log")
    process = start_train([*SHORT, *line, f"run_dir={directory}"], log)
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
    status, text = exit_status(process), log.read_text()
    found = _judged(status, text, directory)
    shutil.rmtree(directory, ignore_errors=True)
    log.unlink()
    return found


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


def _groups() -> list[str]:
    found = {path.parent.relative_to(CONF).as_posix() for path in CONF.glob("*/**/*.yaml")}
    return sorted(found - {"launcher", "experiment", "claim", "logger"})


def _keys() -> dict[str, Any]:
    """Every key of the composed configuration that a user may type, with its value."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("train", overrides=list(SHORT))
    known = flatten(OmegaConf.to_container(config, resolve=False))
    return {key: value for key, value in known if not key.startswith(("logger", "run_dir", "rerun", "machine"))}


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace(" ", "")
