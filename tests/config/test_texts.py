"""Settings that are texts are taken as they are typed."""

import inspect
import pkgutil
from typing import Any

import pytest
import yaml
from conftest import ROOT, composed
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from midstate.config.texts import TEXTS, as_typed

# Settings with a few fixed words, whose refusal lists them, and times: their values are no free texts.
WORDS = {
    *("data.augmentation.re_mode", "data.interpolation", "data.on_error", "data.source"),
    *("logger.mode",),
    *("model.arguments", "model.pretrained", "model.shortcut"),
    *("optimizer.decay", "trainer.final_images"),
    *(
        "pruner.allocation.budget",
        "pruner.allocation.normalise",
        "pruner.allocation.per",
        "pruner.allocation.repair",
        "pruner.allocation.score",
        "quantizer.allocation.budget",
        "quantizer.allocation.per",
        "quantizer.allocation.repair",
        "quantizer.allocation.score",
        "quantizer.grid.clip",
        "quantizer.method.budget",
        "pruner.narrow.match",
        "pruner.pattern.combine",
        "pruner.path.frames",
        "pruner.path.granularity",
        "pruner.path.order",
        "pruner.path.rank",
        "pruner.path.rerank",
        "pruner.path.steps",
        "pruner.scope.indivisible",
        "pruner.update.grow",
        "pruner.update.initial",
        "pruner.update.regrow",
    ),
    *("schedule.curve",),
    *("trainer.device", "trainer.mode", "trainer.precision", "trainer.sensitivity_kinds", "trainer.threads"),
}
TIMES = {
    *("optimizer.every", "optimizer.milestones", "optimizer.warmup", "schedule.start", "schedule.stop"),
    *("pruner.allocation.refresh", "pruner.update.every", "pruner.update.until", "trainer.checkpoint_every"),
    *("quantizer.allocation.gates_from", "quantizer.method.every"),
}


@pytest.mark.parametrize(
    "text", ["2024_11_29", "1e3", "true", "0.10", "-7", "nan", "epoch=3-step=10.ckpt", "é", "it's"]
)
def test_a_text_is_what_was_typed(text):
    settings = (
        "run_dir",
        "data.root",
        "logger.project",
        "logger.group",
        "model.name",
        "model.checkpoint",
        "pruner.like",
    )
    chosen = ("data=imagefolder", "model=timm", "pruner=dense_small")
    config = composed(*chosen, *(f"{name}={text}" for name in settings))
    assert {OmegaConf.select(config, name) for name in settings} == {text}


def test_texts_in_a_list_are_what_was_typed():
    config = composed("logger.tags=[2024_11_29, lr=1e-3,true, 'a,b','7']", "pruner.exclude=[1,layer1.*]")
    assert config.logger.tags == ["2024_11_29", "lr=1e-3", "true", "a,b", "7"]
    assert config.pruner.exclude == ["1", "layer1.*"]


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("model.checkpoint=a=1.ckpt,b=2.ckpt", ["a=1.ckpt", "b=2.ckpt"]),
        ("model.name=choice(1e3,true)", ["1e3", "true"]),
        ("logger.tags=[1e3,b],[c]", [["1e3", "b"], ["c"]]),
        ("experiment=2024,paper/maxq", ["2024", "paper/maxq"]),
    ],
)
def test_what_sweeps_goes_on_sweeping(override, values):
    parsed = OverridesParser.create().parse_override(as_typed([override])[0])
    each = [OverridesParser.create().parse_override(f"x={text}").value() for text in parsed.sweep_string_iterator()]
    assert [[str(one) for one in value] if isinstance(value, list) else str(value) for value in each] == values


@pytest.mark.parametrize(
    "argument",
    [
        "optimizer.lr=1e3",
        "run_dir=null",
        "run_dir=",
        "run_dir='x",
        "run_dir='1'",
        "seed=range(0,3)",
        "-m",
        "install=bash",
    ],
)
def test_everything_else_is_left_to_hydra(argument):
    assert as_typed([argument]) == [argument]
    assert composed("run_dir=null").run_dir is None


def test_every_textual_setting_is_known():
    """What has a text among its types is taken as typed, unless its values are fixed words or times."""
    found = set()
    for path in (ROOT / "conf").glob("*/**/*.yaml"):
        group = path.relative_to(ROOT / "conf").parts[0]
        if group not in ("claim", "experiment", "launcher", "sweep"):
            first = path.read_text().partition("\n")[0]
            package = first.partition("@package ")[2].strip() or path.relative_to(ROOT / "conf").parent.as_posix()
            below = "" if package == "_global_" else package.replace("/", ".")
            found |= set(_textual(yaml.safe_load(path.read_text()), below))
    assert len(found) > 40
    assert found - WORDS - TIMES <= TEXTS


def _textual(node: Any, place: str) -> list[str]:
    if not isinstance(node, dict):
        return []
    below = [name for key, value in node.items() for name in _textual(value, f"{place}.{key}".lstrip("."))]
    if "_target_" not in node:
        return below
    parameters = inspect.signature(pkgutil.resolve_name(node["_target_"])).parameters.values()
    return below + [f"{place}.{each.name}" for each in parameters if "str" in str(each.annotation)]


@pytest.mark.slow
def test_a_sweep_over_checkpoints_of_lightning_looks_for_each(start, tmp_path):
    done = start("-m", "pruner=nm", "model.checkpoint=epoch=3-step=10.ckpt,last=1.ckpt")
    assert done.returncode == 2
    assert "epoch=3-step=10.ckpt" in done.stderr
    assert "last=1.ckpt" in done.stderr
    assert "mismatched" not in done.stderr
