"""Published recipes, against what their papers and released codes say, written out here by hand."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import pytest
from conftest import ROOT, composed
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from midstate.engine.step import train_step
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session
from midstate.sparsity import weight_layers

PAPERS = ROOT / "conf" / "experiment" / "paper"
CIFAR = {"data.size": 32, "data.num_classes": 10}
IMAGENET = {"data.size": 224, "data.num_classes": 1000}
NO_LIGHTING = "~data.augmentation.lighting"  # images that do not lie in files have none


@dataclass(frozen=True)
class Paper:
    """What a recipe says."""

    data: str
    model: str
    epochs: int
    batch_size: int
    momentum: float
    nesterov: bool
    weight_decay: float
    rates: dict[float, float]  # by epoch
    progress: dict[float, float]  # of the path, by epoch
    num_layers: int  # in scope
    dense: str  # name patterns of the layers that are not
    settings: dict[str, object]
    rate_within_epoch: bool = False  # whether the rate changes within an epoch
    decayed: str = "all"  # parameters under weight decay
    label_smoothing: float = 0.0
    precision: str = "fp32"
    lighting: float | None = None
    shape: dict[str, int] = field(default_factory=lambda: IMAGENET)


SFP = {0: 0.01, 1: 0.1, 59: 0.1, 60: 0.02, 119: 0.02, 120: 0.004, 159: 0.004, 160: 0.0008, 199: 0.0008}
THIRDS = {0: 0.1, 29: 0.1, 30: 0.01, 59: 0.01, 60: 0.001, 89: 0.001, 90: 1e-4, 99: 1e-4}
# 0.05 * (1 + cos(pi * epoch / 120)), by hand at a sixth, a half, two thirds and the last epoch
COSINE = {0: 0.1, 20: 0.0933013, 60: 0.05, 80: 0.025, 119: 1.713375e-5}
SOFT = {"pruner.pattern.sparsity": 0.3, "pruner.update.every": "1ep", "pruner.update.until": None}

PAPERS_BY_NAME = {
    # MaxQ's code: args.py, pruning_train.py, scripts/prune_train_imagenet.py and _cifar100.py
    "maxq": Paper(
        "imagenet", "resnet50", 120, 256, 0.9, False, 1e-4, COSINE, {0: 0, 15: 0.5, 30: 1, 119: 1}, 52, "conv1 fc",
        {"pruner.pattern.n": 1, "pruner.pattern.m": 16, "pruner.path.order": "default", "pruner.estimator.tau": 1e-2,
         "pruner.estimator.decay": 2e-4, "pruner.update.every": "1it", "model.small_stem": False},
        decayed="matrices", label_smoothing=0.1, precision="fp16", lighting=0.1,
    ),
    "maxq_cifar100": Paper(
        "cifar100", "resnet18", 120, 256, 0.9, True, 5e-4, COSINE, {0: 0, 15: 0.5, 30: 1, 119: 1}, 19,
        "conv1 classifier",
        {"pruner.pattern.n": 1, "pruner.pattern.m": 16, "pruner.path.order": "default", "pruner.estimator.tau": 1e-2,
         "pruner.estimator.decay": 2e-4, "pruner.update.every": "1it", "model.widths": [64, 128, 256, 512]},
        precision="fp16", shape={"data.size": 32, "data.num_classes": 100},
    ),
    # SR-STE's code: configs/config_resnet50_2by4.yaml, train_imagenet.py; the rate falls over 115 epochs from the fifth
    "sr_ste": Paper(
        "imagenet", "resnet50", 120, 256, 0.9, False, 5e-5, {0: 0.002, 2.5: 0.052, 5: 0.1, 62.5: 0.05}, {0: 1}, 53,
        "fc",
        {"pruner.pattern.n": 2, "pruner.pattern.m": 4, "pruner.estimator.decay": 2e-4, "pruner.update.every": "1it",
         "model.small_stem": False, "model.pretrained": False},
        rate_within_epoch=True, lighting=0.1,
    ),
    # LBC's code: imagenet.py, utils/conv_type.py; cubic from 0 to the 60th of 120 epochs, five of warm-up
    "lbc": Paper(
        "imagenet", "resnet50", 120, 256, 0.9, False, 1e-4, {0: 0.002, 2.5: 0.052, 5: 0.1, 62.5: 0.05},
        {0: 0, 15: 0.578125, 30: 0.875, 45: 0.984375, 60: 1, 119: 1}, 52, "conv1 fc",
        {"pruner.pattern.n": 2, "pruner.pattern.m": 4, "pruner.update.every": "1it", "model.pretrained": False,
         "pruner.path._target_": "midstate.sparsity.Combinations", "model.small_stem": False,
         "pruner.estimator._target_": "midstate.sparsity.Candidates"},
        rate_within_epoch=True, decayed="matrices", label_smoothing=0.1,
    ),
    # apex.contrib.sparsity; references/classification of torchvision: times 0.1 every 30 of 90 epochs, 8 * 32 images
    "asp": Paper(
        "imagenet", "resnet50", 90, 256, 0.9, False, 1e-4, {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 89: 0.001}, {0: 1},
        53, "conv1",
        {"pruner.pattern.n": 2, "pruner.pattern.m": 4, "pruner.update.until": 0, "model.pretrained": "IMAGENET1K_V1",
         "pruner.estimator._target_": "midstate.sparsity.Hard", "model.small_stem": False},
    ),
    # DominoSearch's code: search/find_mix_from_dense_imagenet.py, devkit/sparse_ops
    "domino_search": Paper(
        "imagenet", "resnet50", 5, 64, 0.0, False, 0.0, {0: 0.01, 4: 0.01}, {0: 0, 2.5: 0.5, 5: 1}, 53, "conv1",
        {"pruner.pattern.n": 2, "pruner.pattern.m": 16, "pruner.allocation.levels": None,
         "pruner.allocation.ready": 0.75, "pruner.allocation.decide_every": 100,
         "pruner.allocation.press_every": 5, "pruner.allocation.strength": 0.1,
         "pruner.allocation.double_from": 0.3, "pruner.allocation.double_every": 0.1,
         "pruner.allocation.erk_share": 0.5, "pruner.update.every": "1it", "model.pretrained": "IMAGENET1K_V1",
         "model.small_stem": False},
    ),
    # SFP's code: scripts/cifar10_resnet.sh, pruning_cifar10_resnet.py; pruning_train.py
    "sfp": Paper(
        "cifar10", "resnet56", 200, 128, 0.9, True, 5e-4, SFP, {0: 1}, 55, "classifier",
        {**SOFT, "pruner.criterion._target_": "midstate.sparsity.L2", "pruner.estimator.mask_gradient": False,
         "model.shortcut": "pad", "model.blocks": [9, 9, 9]},
        shape=CIFAR,
    ),
    "sfp_imagenet": Paper(
        "imagenet", "resnet50", 100, 256, 0.9, True, 1e-4, THIRDS, {0: 1}, 49, "*.downsample.0 fc",
        {**SOFT, "pruner.criterion._target_": "midstate.sparsity.L2", "pruner.estimator.mask_gradient": False,
         "model.small_stem": False, "model.pretrained": False},
    ),
    # the curve's three points: 0 at 0, three quarters at an eighth, 1 at the end
    "asfp": Paper(
        "cifar10", "resnet56", 200, 128, 0.9, True, 5e-4, SFP, {0: 0, 25: 0.75, 200: 1}, 55, "classifier",
        {**SOFT, "pruner.criterion._target_": "midstate.sparsity.L2", "pruner.estimator.mask_gradient": False,
         "model.shortcut": "pad"},
        shape=CIFAR,
    ),
    # Network Slimming's code: main.py, vggprune.py, models/vgg.py; trained twice for 160 epochs
    "network_slimming": Paper(
        "cifar10", "vgg19", 320, 64, 0.9, False, 1e-4,
        {0: 0.1, 79: 0.1, 80: 0.01, 120: 0.001, 159: 0.001, 160: 0.1, 239: 0.1, 240: 0.01, 280: 0.001, 319: 0.001},
        {0: 0, 159: 0, 160: 1, 319: 1}, 16, "classifier",
        {"pruner.pattern.sparsity": 0.7, "pruner.penalty.strength": 1e-4, "pruner.allocation.normalise": "none",
         "pruner.allocation.budget": "units", "pruner.update.regrow": "never", "model.gamma": 0.5},
        shape=CIFAR,
    ),
    # FPGM's code: scripts/pruning_cifar10.sh, scripts/pruning_imagenet_resnet.sh
    "fpgm": Paper(
        "cifar10", "resnet56", 200, 128, 0.9, True, 5e-4, {0: 0.1, 59: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}, {0: 1},
        55, "classifier",
        {**SOFT, "pruner.pattern.sparsity": 0.4, "pruner.criterion.norm_share": 0,
         "pruner.estimator.mask_gradient": True, "model.shortcut": "pad"},
        shape=CIFAR,
    ),
    "fpgm_imagenet": Paper(
        "imagenet", "resnet50", 100, 256, 0.9, True, 1e-4, THIRDS, {0: 1}, 49, "*.downsample.0 fc",
        {**SOFT, "pruner.criterion.norm_share": 0, "pruner.estimator.mask_gradient": True, "model.small_stem": False,
         "model.pretrained": False},
    ),
}  # fmt: skip


def paper_with_fake_data(name, *overrides):
    """The recipe, on random images of its data's shape."""
    paper = PAPERS_BY_NAME[name]
    shape = [f"{key}={value}" for key, value in paper.shape.items()]
    removed = [] if paper.lighting is None else [NO_LIGHTING]
    return composed(f"experiment=paper/{name}", "data=fake", *shape, *removed, *overrides)


def test_every_recipe_is_in_the_table():
    assert {path.stem for path in PAPERS.glob("*.yaml")} == set(PAPERS_BY_NAME)


@pytest.mark.parametrize("name", PAPERS_BY_NAME)
def test_files_say_what_was_published_and_what_differs(name):
    text = (PAPERS / f"{name}.yaml").read_text()
    assert [fact for fact in ("Source", "Published", "Differs") if f"\n# {fact}: " not in text] == []
    assert len(text.splitlines()[1].split()) > 4


@pytest.mark.parametrize("name", PAPERS_BY_NAME)
def test_settings_are_the_published_ones(name):
    paper = PAPERS_BY_NAME[name]
    written = OmegaConf.load(PAPERS / f"{name}.yaml")
    assert {"override /data": paper.data} in written.defaults
    assert OmegaConf.select(written, "data.augmentation.lighting") == paper.lighting
    config = OmegaConf.to_container(paper_with_fake_data(name), resolve=True)
    assert HydraConfig.get().runtime.choices["model"] == paper.model
    trainer = config["trainer"]
    assert (trainer["epochs"], trainer["batch_size"]) == (paper.epochs, paper.batch_size)
    assert trainer["label_smoothing"] == paper.label_smoothing
    assert trainer["precision"] == paper.precision
    assert (trainer["clip_norm"], trainer["max_steps_per_epoch"]) == (None, None)
    assert config["optimizer"]["_target_"] == "midstate.optimizers.SGD"
    for key, value in paper.settings.items():
        assert OmegaConf.select(OmegaConf.create(config), key) == value, key


# Nothing that is looked at depends on the size of images.
SMALL = ("data.size=32", "data.num_train=4", "data.num_eval=2", "trainer.batch_size=2", "trainer.precision=fp32")


@pytest.mark.parametrize("name", PAPERS_BY_NAME)
@pytest.mark.slow
def test_what_is_built_is_what_was_published_and_trains(name):
    paper = PAPERS_BY_NAME[name]
    from_scratch = ["model.pretrained=false", "trainer.mode=train"] if "model.pretrained" in paper.settings else []
    plan = Plan.of(paper_with_fake_data(name, *SMALL, *from_scratch))
    assert plan.name == f"paper/{name}"
    assert plan.directory.parts[:3] == ("outputs", "paper", name)
    assert plan.directory.parts[4:] == ("seed0",)

    per_epoch = 10
    rate = plan.parts.optimizer.rate(per_epoch, paper.epochs * per_epoch)
    assert {epoch: rate.at(round(epoch * per_epoch)) for epoch in paper.rates} == pytest.approx(paper.rates)
    assert (rate.at(605) == rate.at(600)) is not paper.rate_within_epoch
    window = plan.parts.schedule.window(per_epoch, paper.epochs * per_epoch)
    reached = {epoch: window.progress(round(epoch * per_epoch)) for epoch in paper.progress}
    assert reached == pytest.approx(paper.progress)

    session = build_session(plan)
    groups = session.optimizer.param_groups
    assert {(group["momentum"], group["nesterov"]) for group in groups} == {(paper.momentum, paper.nesterov)}
    decays = {(p.dim() > 1, group["weight_decay"]) for group in groups for p in group["params"]}
    assert decays == {(True, paper.weight_decay), (False, paper.weight_decay if paper.decayed == "all" else 0)}
    every = [layer.name for layer in weight_layers(session.model)]
    in_scope = [layer.name for layer in session.pruner.layers]
    assert in_scope == [name for name in every if not any(fnmatchcase(name, each) for each in paper.dense.split())]
    assert len(in_scope) == paper.num_layers

    for images, labels in session.batches.epoch(0, 0):
        train_step(session, images, labels)
    assert session.step == 2
    session.check_finite()


@pytest.mark.slow
def test_runs_of_a_recipe_lie_below_its_name_and_are_found_again(start, tmp_path):
    """With W&B's own records beside them; a second time nothing is trained."""
    small = (
        "experiment=paper/sfp",
        "model=resnet8",
        "data=fake",
        "data.size=16",
        "data.num_train=64",
        "trainer.epochs=1",
    )
    first, second = start(*small), start(*small)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    (summary,) = tmp_path.glob("outputs/paper/sfp/*/seed0/summary.json")
    for done in (first, second):
        assert done.stdout.splitlines()[-1] == f"run_dir: {summary.parent.relative_to(tmp_path)}"
    assert list(summary.parent.glob("wandb/offline-run-*"))
    later = Plan.of(composed(*small[1:], "pruner=dense", f"model.checkpoint={tmp_path}/outputs/paper/sfp"))
    assert later.checkpoint == summary.parent / "checkpoints" / "final.pt"


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("experiment=paper/maxk", "did you mean maxq"),
        ("experiment/paper=maxq", "experiment/paper=maxq: write experiment=paper/maxq"),
        ("+experiment/paper=maxq", "write experiment=paper/maxq"),
    ],
)
def test_a_mistyped_recipe_is_answered_with_the_right_one(start, typed, answer):
    done = start(typed)
    assert done.returncode == 2
    assert answer in done.stderr
