"""What the pages of the documentation tell a reader to type, and how it is made small."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from fnmatch import filter as matching
from pathlib import Path

from conftest import ROOT, TINY

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("pip", "pytest", "python", "scontrol", "srun", "torchrun", "wandb")
TYPED = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)}) \S")
PARTS = re.compile(r"^```(?P<kind>\w*)\n(?P<block>.*?)^```|`(?P<inline>[^`]+)`", re.DOTALL | re.MULTILINE)
ABOVE = re.compile(r"`((?:local|mine)/[\w/]+\.(?:py|yaml))`")

# Every program tells this test what it was called with, and ends as it is answered.
PROGRAM = (
    '{name}() {{ {{ printf "%s\\0" "$#" {name} "$@"; env -0; printf "\\0"; }} >&{tell}; '
    "read -r -u {answers} status; return $status; }}\n"
)
SMALL = {
    each.partition("=")[0]: each
    for each in (*TINY, "trainer.epochs=2", "trainer.max_steps_per_epoch=3", "trainer.probe_images=60")
}
TRIED = {"episodes": 2, "trial_steps": 1, "trial_images": 64, "held_out": 64}
TRYING = {  # by the groups whose members try schemes
    "quantizer": {"quantizer=haq"},
    "pruner": {"pruner/allocation=haq", "pruner/allocation=random_search"},
}
SMALLER = {
    "model=resnet20": "model=resnet8",
    "model.name=convnext_tiny.fb_in1k": "model.name=convnext_atto.d2_in1k",
    "data.size=32": "data.size=16",
}
CLUTTER = ("data.train_placements", "data.eval_placements")
# Beside the tiny files that a test writes for it.
FASHION = {
    f"data.{name}": f"data.{name}={value}"
    for name, value in {"num_train": 60, "num_validation": 20, "num_unused": 20}.items()
}


def commands(page: Path) -> str:
    """All commands of a page, of its blocks and of its sentences and tables, as a script of the shell.

    In a table, `... KEY=VALUE` is the command above with these settings, too.
    """
    found, above = [], ""
    for part in PARTS.finditer(page.read_text()):
        text = part["block"] if part["kind"] == "bash" else " ".join((part["inline"] or "").split())
        if text.startswith("... "):
            found.append(f"{above} {text[4:]}")
        elif part["kind"] == "bash" or TYPED.match(text):
            found.append(text)
            above = text if " -m " in text else above
    return "\n".join(found)


def shown_files(page: Path) -> dict[str, str]:
    """Files of one's own that a page shows: each block belongs to a path in the paragraph above it."""
    files, paths, end = {}, [], 0
    text = page.read_text()
    for block in (part for part in PARTS.finditer(text) if part["kind"] is not None):
        if between := text[end : block.start()].strip():
            paths = ABOVE.findall(between.rpartition("\n\n")[2])
        if block["kind"] in ("python", "yaml") and paths:
            files[paths.pop(0)] = block["block"]
        end = block.end()
    return files


def typed(script: str, place: Path, answer: Callable[[list[str], dict[str, str]], int]) -> Iterator[list[str]]:
    """Run a script of the shell; every program that it calls is answered with a status, and yielded."""
    (requests, tell), (answers, give) = os.pipe(), os.pipe()
    programs = "".join(PROGRAM.format(name=name, tell=tell, answers=answers) for name in PROGRAMS)
    shell = subprocess.Popen(["bash", "-c", programs + script], cwd=place, pass_fds=(tell, answers))
    os.close(tell)
    os.close(answers)
    with open(requests, "rb") as lines, open(give, "w") as replies, shell:
        while number := _field(lines):
            words = [_field(lines) for _ in range(int(number) + 1)]
            environment = dict(each.split("=", 1) for each in iter(lambda: _field(lines), "") if "=" in each)
            print(answer(words, environment), file=replies, flush=True)
            yield words


def _field(stream) -> str:
    letters = bytearray()
    while (letter := stream.read(1)) not in (b"\0", b""):
        letters += letter
    return letters.decode()


def small_reproduction(arguments: list[str]) -> list[str]:
    """Arguments of `scripts/reproduce.py` at debug size: one seed, and short runs."""
    if {"--list", "--dry-run", "--report"} & {*arguments}:
        return arguments
    settings = [each for each in arguments if "=" in each]
    options = [each for each in arguments if each not in settings]
    data = "clutter" if "first" in options else "fashion_mnist"
    return [*options, "--seeds", "1", "--wandb", "off", *small(settings, data)]


def small(settings: list[str], data: str = "clutter") -> list[str]:
    """Settings of `train.py` at debug size: a short run of a small network; of lists the first two, of seeds one."""
    if any(each.startswith("--") and each != "--config-dir" for each in settings):
        return settings
    in_files = "data=imagefolder" in settings or any(each.startswith("data.root=") for each in settings)
    fashion = data == "fashion_mnist" or any(each.startswith("experiment=fashion/") for each in settings)
    own_data = in_files or fashion or any(each.startswith("data=") and each != "data=clutter" for each in settings)
    added = {key: each for key, each in SMALL.items() if not (own_data and key in CLUTTER)}
    added |= FASHION if fashion else {}
    if "launcher=pool" in settings:
        added["hydra.launcher.n_jobs"] = "hydra.launcher.n_jobs=1"
    for group, words in TRYING.items():
        if words & {*settings}:
            added |= {f"{group}.{name}": f"{group}.{name}={value}" for name, value in TRIED.items()}
    if "sweep=optuna_lr" in settings:
        added["hydra.sweeper.n_trials"] = "hydra.sweeper.n_trials=2"
    settings = [SMALLER.get(each, each) for each in settings]
    if in_files:
        added |= {"data.size": "data.size=32", "trainer.batch_size": "trainer.batch_size=8"}
    return [*(first(each, 2) for each in settings if each.partition("=")[0] not in added), *added.values()]


def first(setting: str, number: int) -> str:
    """A setting with the first of its values, if it is a list."""
    key, equals, value = setting.partition("=")
    if not equals:
        return setting
    if globbed := re.fullmatch(r"glob\(\[?(.*?)\]?\)", value):
        members = sorted(path.stem for path in (ROOT / "conf" / key).glob("*.yaml"))
        value = ",".join(matching(members, each)[0] for each in globbed[1].split(","))
    if value.startswith("range(0,"):
        return f"{key}=0" if number == 1 else f"{key}=range(0,1)"
    return setting if value[:1] in "[{" else f"{key}={','.join(value.split(',')[:number])}"
