"""Names and settings as keywords, and what is asked for."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from loops import CUBIC, METHODS, STEPS, network
from torch import nn

from midstate import prune
from midstate.own_loop.presets import choose, in_python
from midstate.own_loop.wanted import images_for
from midstate.runs.parts import build_parts
from midstate.sparsity import L2, Criterion, Sample, Schedule

IMAGES, LABELS = torch.randn(16, 1, 8, 8), torch.arange(16) % 4


def put_on(*arguments, optimizer=None, model=None, **settings):
    model = model or network()
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    return prune(model, optimizer, *arguments, **{"total_steps": STEPS, **settings})


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml")))
def test_presets_are_those_of_the_command_line(name):
    if name == "dense_small":
        with pytest.raises(ValueError, match="method='dense_small': makes a narrower network"):
            choose(name, {}, None, None, None)
        return
    from conftest import composed

    found = choose(name, {}, None, None, None)
    parts = build_parts(composed(f"pruner={name}", "logger=none"))
    assert (found.method, found.schedule) == (parts.method, parts.schedule)
    assert found.begins_trained == (name in ("asp", "domino"))


def test_settings_axes_and_times_are_keywords():
    found = choose("asp", {"n": 1, "criterion": "l2", "exclude": ("a.*",)}, "cubic", "10it", 0.9)
    assert (found.method.pattern.n, found.method.criterion) == (1, L2())
    assert found.method.scope.exclude == ["a.*"]
    assert (found.schedule, found.method.update.until) == (Schedule("cubic", "10it", 0.9), "10it")
    penalised = choose("global_filter", {"penalty": "batchnorm_l1", "strength": 0.5}, None, None, None)
    assert penalised.method.penalty.strength == 0.5

    class Mine(Criterion):
        def score(self, layer, pattern):
            return pattern.pool(layer.weight.abs())

    assert isinstance(choose("nm", {"criterion": Mine()}, None, None, None).method.criterion, Mine)
    assert choose(METHODS["hard"], {}, "linear", None, 0.5).schedule == Schedule("linear", 0, 0.5)
    assert choose(METHODS["hard"], {}, None, None, None).schedule == CUBIC


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (("nm_blok",), {}, "method='nm_blok': must be one of .*; did you mean nm_block?"),
        (("nm",), {"nn": 2}, "nn=2: nm has no such setting; did you mean"),
        (("nm",), {"n": 5, "m": 4}, "n=5: must be"),
        (("nm",), {"n": object()}, "n=<object object at .*>: must be a number, a text"),
        (("nm",), {"order": "inverse"}, "order='inverse': nm has no such setting"),
        (("nm",), {"sparsity": 0.5}, "sparsity=0.5: nm has no such setting"),
        (("nm",), {"criterion": "tailor"}, "criterion='tailor': must be one of .*; did you mean taylor?"),
        (("nm",), {"criterion": 3}, "criterion=int: has no method score"),
        (("nm",), {"path": "density"}, 'path=density prunes .* use path="n"'),
        (("nm",), {"schedule": "cubik"}, "schedule='cubik': must be one of"),
        (
            ("nm",),
            {"schedule": {"curve": "linear"}},
            r"schedule={'curve': 'linear'}: must be one of .*, a Schedule or None",
        ),
        (("nm",), {"start": 0.9, "stop": 0.5, "schedule": "cubic"}, "stop=0.5: must not lie before start=0.9"),
        (("nm",), {"start": 0.5, "schedule": CUBIC}, "start, stop: belong to a schedule"),
        (("nm",), {"total_steps": 0}, "total_steps=0: must be a whole number, 1 or more"),
        (("nm",), {"seed": -1}, "seed=-1"),
        (("nm",), {"classifier": "fc"}, "classifier='fc': no layer has that name"),
        ((METHODS["hard"],), {"n": 2}, "n: settings belong to a preset; a Method has its own"),
        (("sfp",), {}, r"steps_per_epoch=None: sfp counts in epochs \(every='1ep'\)"),
        (("nm",), {"schedule": "cubic", "stop": "3ep"}, r"steps_per_epoch=None: nm counts in epochs \(stop='3ep'\)"),
        (("asp",), {}, "trained=False: asp begins with trained weights; .* trained=True, .* start=0.5"),
        (
            ("wanda",),
            {},
            r"sample=None: wanda measures on training images \(input_norm\); give sample=\(images, labels\)",
        ),
        (("nm",), {"criterion": "taylor"}, r"sample=None: nm measures on training images \(gradient\)"),
        (("network_slimming",), {}, "sample=None: network_slimming looks for the BatchNorm"),
        (("magnitude",), {"allocation": "erk", "budget": "macs"}, "sample=None: .* multiply-accumulates"),
        (("domino",), {"trained": True}, "sample=None: domino counts an image's multiply-accumulates"),
        (("nm_block",), {"window": 0.25}, "window=0.25: must be a name, of early, first_half"),
        (("wanda",), {"sample": IMAGES}, r"sample: must be \(images, labels\)"),
        (("wanda",), {"sample": (IMAGES, LABELS[1:])}, r"sample: must be \(images, labels\)"),
        (("magnitude",), {"allocation": "haq", "sample": (IMAGES, LABELS)}, "trained=False: magnitude begins with"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(arguments, settings, said):
    with pytest.raises(ValueError, match=said):
        put_on(*arguments, **settings)


def test_images_are_moved_to_the_model_whatever_holds_them():
    choice, model = choose("wanda", {}, None, None, None), network().to("meta")
    part = Sample(IMAGES, LABELS)
    for given in ((IMAGES, LABELS), Sample(IMAGES, LABELS, part, part)):
        found = images_for(choice, model, given)
        every = [each for each in (found, found.tuning, found.held_out) if each is not None]
        assert {each.device.type for one in every for each in (one.images, one.labels)} == {"meta"}
    assert found.held_out is not None


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("nm", {"stop": 0.5}, "stop has no effect: this pruner has no intermediate states"),
        ("nm_block", {"schedule": "one_shot", "stop": 0.5}, "stop has no effect: one_shot goes the whole way at start"),
        ("nm_block", {"order": "random", "rerank": "sticky"}, "rerank has no effect: a fixed random order"),
        ("nm_block", {"stop": 0.5}, None),
    ],
)
def test_arguments_without_effect_are_named(name, settings, said, caplog):
    schedule, stop = (settings.pop(each, None) for each in ("schedule", "stop"))
    choose(name, settings, schedule, None, stop)
    assert (said in caplog.text) if said else ("has no effect" not in caplog.text)


def test_what_is_not_a_plain_model_and_its_own_optimizer_is_refused():
    model = network()
    for given, said in ((torch.compile(model), "before DDP and torch.compile"), (3, "must be a torch.nn.Module")):
        with pytest.raises(ValueError, match=said):
            prune(given, torch.optim.SGD(model.parameters()), "nm", total_steps=1)
    for given, said in (
        ([], "must be an optimizer, or several"),
        (3, r"must be a torch\.optim\.Optimizer"),
        (torch.optim.SGD(network().parameters()), "holds none of the model's parameters"),
    ):
        with pytest.raises(ValueError, match=said):
            prune(model, given, "nm", total_steps=1)
    assert [*model.state_dict()] == [*network().state_dict()]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "wanda"},
        {"method": "nm", "criterion": "taylor", "n": 2, "m": 4},
        {"method": "magnitude", "allocation": "erk", "budget": "macs"},
        {
            "method": "global_filter",
            "budget": "extracted_macs",
            "refresh": "once",
            "sparsity": 0.5,
            "steps_per_epoch": 2,
        },
    ],
    ids=lambda settings: settings["method"],
)
def test_with_a_sample_it_measures(settings):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pruner = put_on(settings.pop("method"), model=model, optimizer=optimizer, sample=(IMAGES, LABELS), **settings)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    pruner.finalise()
    assert pruner.kept() < 1


@pytest.mark.parametrize(
    ("name", "place", "settings"),
    [("nm", 2, {"n": 2, "m": 4}), ("network_slimming", 3, {"start": 0, "sample": (IMAGES, LABELS)})],
    ids=["nm", "network_slimming"],
)
def test_a_first_refresh_that_fails_leaves_the_model_as_it_was(name, place, settings):
    layers = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(128, 4))
    model[place].weight.data[0] = torch.nan
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {key: (tensor, tensor.detach().clone()) for key, tensor in model.named_parameters()}
    with pytest.raises(ValueError, match=r"(?i)nan"):
        put_on(name, model=model, optimizer=optimizer, **settings)
    for key, tensor in model.named_parameters():
        assert tensor is before[key][0]
        torch.testing.assert_close(tensor.detach(), before[key][1], rtol=0, atol=0, equal_nan=True)
    assert not optimizer._optimizer_step_pre_hooks


def test_the_classifier_is_timms_own():
    import timm

    model = timm.create_model("resnet10t", num_classes=4)
    assert "classifier: fc;" in put_on("nm", model=model, n=2, m=4).describe()


def test_messages_speak_of_keywords():
    said = "pruner.n=3: must; use pruner/path=n, schedule.start=1 or schedule=cubic"
    assert in_python(said) == 'n=3: must; use path="n", start=1 or schedule="cubic"'


APP = """
import hydra, torch
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.version import getbase
from omegaconf import OmegaConf

ConfigStore.instance().store(name="schema", node={"mine": 1})

def seen():
    hydra_now = GlobalHydra.instance().hydra
    plugins = sorted(each.__name__ for each in Plugins.instance().discover())
    known = sorted(ConfigStore.instance().repo)
    return id(hydra_now), str(getbase()), OmegaConf.to_yaml(HydraConfig.get()), plugins, known

@hydra.main(version_base="1.1", config_path=None, config_name="schema")
def main(config):
    before, again = seen(), compose("schema", ["mine=2"])
    from midstate import prune
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    prune(model, torch.optim.SGD(model.parameters()), "nm", total_steps=3, n=2, m=4)
    after = seen()
    assert after[:4] == before[:4], (before, after)
    assert {*after[4]} - {*before[4]} <= {"midstate_schema.yaml"}
    assert compose("schema", ["mine=2"]) == again and again.mine == 2
    print("untouched", config.mine)

main()
"""


@pytest.mark.slow
def test_somebodys_own_program_of_hydra_is_left_alone(tmp_path):
    (tmp_path / "app.py").write_text(APP)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for word in ((), ("-m",)):
        done = subprocess.run(
            [sys.executable, "app.py", *word, "mine=3"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "untouched 3" in done.stdout
