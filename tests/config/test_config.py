"""Every file under conf composes and builds; whatever cannot run is refused with one message and status 2."""

import itertools

import pytest
from conftest import ALONE, ROOT, composed
from omegaconf import open_dict

from midstate.common.errors import ConfigError
from midstate.config.schema import check_root
from midstate.runs.plan import Plan
from midstate.runs.prepare import build_session

# Claims are not for train.py; experiments are composed in tests/study and tests/system/test_papers.py.
NOT_HERE = ("claim", "experiment")
FILES = sorted(
    path for path in (ROOT / "conf").glob("*/**/*.yaml") if path.relative_to(ROOT / "conf").parts[0] not in NOT_HERE
)
# Launchers and searches are tried in their own tests, presets in tests/runs/test_identities.py.
ELSEWHERE = ("launcher", "sweep", "pruner")
GROUPS = sorted({path.parent.relative_to(ROOT / "conf").as_posix() for path in FILES})
MEMBERS = [
    (path.parent.relative_to(ROOT / "conf").as_posix(), path.stem)
    for path in FILES
    if path.parent.name not in ELSEWHERE
]


# Members of an axis that make sense beside others only.
BESIDE = {
    "pruner/path=density": ("pruner=magnitude",),
    "pruner/pattern=weight": ("pruner=magnitude",),
    "pruner/pattern=row": ("pruner=magnitude",),
    "pruner/pattern=filter": ("pruner=filter",),
    "pruner/pattern=channel": ("pruner=channel",),
    **{
        f"pruner/window={name}": ("pruner=maxq",)
        for name in ("early", "first_half", "late", "second_half", "warm", "whole")
    },
    "pruner/window=trained": ("pruner=maxq", "trainer.mode=train"),
    "pruner/update=drop_grow": ("pruner=magnitude", "pruner/estimator=dense_gradient"),
    "pruner/criterion=geometric_median": ("pruner=filter",),
    "pruner/allocation=domino": ("pruner=domino", *ALONE["domino"]),
    "pruner/path=search": ("pruner=domino", *ALONE["domino"]),
    "pruner/criterion=batchnorm_scale": ("pruner=filter",),
    "pruner/estimator=hard_channels": ("pruner=filter",),
    "pruner/penalty=batchnorm_l1": ("pruner=network_slimming",),
    "pruner/estimator=candidates": ("pruner=lbc",),
    **{f"data/augmentation={name}": ("data=imagefolder",) for name in ("crops", "lighting", "timm")},
    "pruner/allocation=scheme": ("pruner.scheme=tests/scheme.json",),
    **{f"{group}={member}": ("quantizer=uniform",) for group, member in MEMBERS if group.startswith("quantizer/")},
    "quantizer/grid=levels": ("quantizer=ddq",),
    "quantizer/estimator=ddq": ("quantizer=ddq",),
    "quantizer/allocation=gates": ("quantizer=ddq",),
    "quantizer/allocation=scheme": ("quantizer=uniform", "quantizer.scheme=tests/scheme.json"),
}


@pytest.mark.parametrize(("group", "member"), MEMBERS, ids=lambda value: value)
def test_every_member_composes_and_builds(group, member, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan.of(composed(*BESIDE.get(f"{group}={member}", ()), f"{group}={member}"))
    assert plan.choices[group] == member


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT / "conf").as_posix())
def test_every_file_says_what_it_is(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ")
    assert len(lines[0].split()) > 4


PRUNERS = ("nm", "nm_step", "nm_block")
ESTIMATORS = ("hard", "ste", "sr_ste")


@pytest.mark.parametrize(("pruner", "estimator"), list(itertools.product(PRUNERS, ESTIMATORS)))
def test_estimators_override_the_preset(pruner, estimator):
    plan = Plan.of(composed(f"pruner={pruner}", f"pruner/estimator={estimator}"))
    assert type(plan.parts.method.estimator).__name__.lower() == estimator.replace("_", "")


def test_short_names_reach_their_axis():
    plan = Plan.of(
        composed("pruner.n=2", "pruner.m=4", "pruner.order=inverse", "pruner/path=blocks", "pruner.every=1ep")
    )
    method = plan.parts.method
    assert (method.pattern.n, method.pattern.m, method.path.order, method.update.every) == (2, 4, "inverse", "1ep")


def test_the_default_is_1_16_by_blocks_in_default_order():
    method = Plan.of(composed()).parts.method
    assert (method.pattern.n, method.pattern.m, method.path.order, method.estimator.decay) == (1, 16, "default", 2e-4)


def test_nm_is_sparse_from_the_first_step_and_takes_a_schedule_when_told():
    assert Plan.of(composed("pruner=nm")).choices["schedule"] == "one_shot"
    assert Plan.of(composed("pruner=nm", "schedule=linear")).choices["schedule"] == "linear"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            "pruner=filter pruner/path=n",
            "path=n steps the N of N:M, and pattern=filter has no N; use pruner/path=density",
        ),
        ("pruner=magnitude pruner/path=blocks", "path=blocks counts the blocks under N:M, and pattern=weight has none"),
        ("pruner=nm pruner/path=density", "path=density prunes the units of a layer one by one"),
        ("pruner=nm pruner/criterion=geometric_median", "measures distances between filters; pattern=nm prunes single"),
        (
            "pruner=fpgm pruner/allocation=global pruner.norm_share=0.5",
            "norm_share=0.5: the mix needs to know how many",
        ),
        ("pruner=sfp pruner/estimator=multi_axis", "its thresholds are shares of N:M, and pattern=filter has none"),
        ("pruner=nm_mixed pruner.per=filter", "per='filter': score=sensitivity knows whole layers only"),
        (
            "pruner=nm_mixed pruner.per=filter pruner.score=random pruner/estimator=multi_axis",
            "per=filter gives filters of one layer different N's, and estimators of MaxQ need one",
        ),
        (
            "pruner=nm_mixed pruner.per=filter pruner.score=random pruner/path=n pruner.granularity=group",
            "per=filter gives filters of one layer different N's, and granularity=group needs one",
        ),
        (
            "pruner=magnitude pruner/allocation=erk pruner.budget=size",
            "budget='size': is a quantizer's, and pattern=weight prunes; use params or macs",
        ),
        ("pruner=nm_mixed pruner.levels=[4,8]", "levels=[4, 8]: all exceed the budget, uniform 2:8"),
        (
            "pruner=filter pruner.skip_classifier=false",
            "a class without its filter is never answered; use pruner/scope=filters",
        ),
        ("pruner=nm_block pruner.regrow=never", "regrow=never: rerank=live lets blocks turn dense again"),
        (
            "pruner=sfp pruner/allocation=scheme pruner.scheme=tests/scheme.json",
            "was made for {'pattern': 'nm', 'm': 16}",
        ),
        (
            "pruner=nm pruner/allocation=scheme pruner.scheme=nowhere.json",
            "pruner.scheme='nowhere.json': cannot be read",
        ),
        ("pruner=nm pruner/allocation=scheme", "scheme=None: must be a file, such as the scheme.json"),
        ("pruner=sfp pruner/pattern=nm pruner.sparsity=0.5", "pruner.sparsity=0.5: no axis of this pruner reads it"),
        (
            "pruner.granularity=group pruner=nm_step pruner.steps=halves",
            "steps='halves': must be one of single, powers",
        ),
        ("pruner=magnitude pruner.sparsity=1.0", "pruner.sparsity=1.0: must be below 1"),
    ],
)
def test_products_without_meaning_are_refused_with_the_reason(overrides, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as refused:
        Plan.of(composed(*overrides.split(" ")))
    assert message in str(refused.value)


KINDS = {"l2": "L2", "random": "Random", "erk": "ERK", "lamp": "LAMP", "direct": "Direct", "live": "Update",
         "soft": "Soft", "all": "Scope"}  # fmt: skip


@pytest.mark.parametrize(
    "axes",
    [
        {"criterion": "l2", "allocation": "erk", "path": "direct", "update": "live", "estimator": "soft"},
        {"criterion": "random", "allocation": "lamp", "scope": "all"},
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("pruner", ["magnitude", "wanda", "sfp", "global_filter", "nm_mixed", "maxq"])
def test_axes_override_a_presets(pruner, axes):
    beside = ("pruner.skip_classifier=true",) if "scope" in axes and pruner in ("sfp", "global_filter") else ()
    plan = Plan.of(composed(f"pruner={pruner}", *(f"pruner/{axis}={member}" for axis, member in axes.items()), *beside))
    for axis, member in axes.items():
        assert plan.choices[f"pruner/{axis}"] == member
        assert type(getattr(plan.parts.method, axis)).__name__ == KINDS[member]


def test_what_a_preset_set_for_a_replaced_axis_goes_with_it():
    plan = Plan.of(composed("pruner=sfp", "pruner/pattern=nm", "pruner.n=2", "pruner.m=4"))
    assert (plan.parts.method.pattern.n, plan.parts.method.pattern.m) == (2, 4)
    assert "sparsity" not in plan.config["pruner"]


def test_a_setting_in_a_file_that_no_member_knows_is_refused():
    config = composed("pruner=nm")
    with open_dict(config):
        config.pruner.sparsity = 0.5  # of another pattern: goes with it
        check_root(config, [])
        assert "sparsity" not in config.pruner
        config.pruner.sparsty = 0.5
    with pytest.raises(
        ConfigError, match=r"pruner\.sparsty=0\.5: no axis of any pruner knows it; did you mean sparsity"
    ):
        check_root(config, [])


def test_presets_bring_their_window_and_what_is_typed_wins():
    windows = {"maxq": (0, 0.25), "lbc": (0, 0.5), "asfp": (0, 1.0), "nm_mixed": (0.25, 0.25), "wanda": (0.75, 0.75)}
    for pruner, window in windows.items():
        schedule = Plan.of(composed(f"pruner={pruner}")).parts.schedule
        assert (schedule.start, schedule.stop) == window
    assert Plan.of(composed("pruner=maxq", "schedule.stop=0.5")).parts.schedule.stop == 0.5
    assert Plan.of(composed("pruner=maxq", "schedule=cubic")).parts.schedule.curve == "cubic"


# Identities on record: a field added later must not change what earlier runs are called.
IDENTITIES = {
    "nm_block": "3cf3b08dcff5",
    "nm_step": "b70930f01fed",
    "nm": "7e2390ce7fe1",
    "dense": "36b064e77b8d",
}


@pytest.mark.parametrize("pruner", IDENTITIES)
def test_runs_keep_the_identity_they_had(pruner):
    plan = Plan.of(composed(f"pruner={pruner}", "trainer.device=cpu", "trainer.threads=1"))
    assert plan.hash == IDENTITIES[pruner]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("pruner=nm_block schedule=one_shot schedule.stop=0.5", "schedule.stop=0.5 has no effect: one_shot goes the"),
        ("pruner=nm schedule=cubic", "schedule=cubic has no effect: this pruner has no intermediate states"),
        ("pruner=nm_mixed pruner.spread=0.1", "pruner.spread=0.1 has no effect: only pruner.score=owl reads it"),
        ("pruner=nm_mixed pruner.vectors=3", "pruner.vectors=3 has no effect: only pruner.score=hessian reads it"),
        ("pruner=nm pruner.permute_seconds=3", "pruner.permute_seconds=3 has no effect: pruner.permute=false"),
        ("pruner=lbc pruner/criterion=random", "pruner/criterion=random has no effect: estimator=candidates ranks"),
        ("pruner.order=random pruner.rerank=sticky", "pruner.rerank=sticky has no effect: a fixed random order"),
    ],
)
def test_what_is_typed_and_has_no_effect_is_warned_of_once(overrides, message, caplog):
    with caplog.at_level("WARNING"):
        Plan.of(composed(*overrides.split(" ")))
    assert caplog.text.count("warning:") == 1
    assert message in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("pruner.n=17", "pruner.n=17: must be a whole number from 1 to 16"),
        ("pruner.n=0", "pruner.n=0: must be a whole number from 1 to 16"),
        ("pruner.n=abc", "pruner.n='abc': must be a whole number"),
        ("pruner.m=1.5", "pruner.m=1.5: must be a whole number"),
        (
            "pruner.order=invers",
            "pruner.order='invers': must be one of default, inverse, random, random_tick; did you mean inverse?",
        ),
        (
            "schedule.stop=30",
            "schedule.stop=30: a bare number is a share of the run from 0 to 1; for epochs write 30ep",
        ),
        ("schedule.start=-0.1", "schedule.start=-0.1: must be a share of the run"),
        ("schedule.curve=cubik", "schedule.curve='cubik': must be one of"),
        ("trainer.epochs=0", "trainer.epochs=0: must be a whole number, 1 or more"),
        ("trainer.device=cuda machine.device_index=99", "machine.device_index=99: this machine has"),
        ("trainer.device=tpu", "trainer.device='tpu': must be one of auto, cpu, cuda"),
        ("trainer.checkpoint_every=5", "trainer.checkpoint_every=5: must be epochs such as '1ep'"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a finite number"),
        ("optimizer.lr=inf", "optimizer.lr=inf: must be a finite number"),
        ("optimizer.lr=fast", "optimizer.lr='fast': must be a finite number"),
        ("logger.mode=onlin", "logger.mode='onlin': must be one of offline, online; did you mean online?"),
        (
            "logger.tags=[" + 65 * "x" + "]",
            "tags='" + 65 * "x" + "': must have 1 to 64 letters for W&B, and this has 65",
        ),
        ("logger.tags=['']", "tags='': must have 1 to 64 letters"),
        ("logger.project=team/pruning", "logger.project='team/pruning': must not hold any of / \\ # ? % :"),
        ("logger.project=" + 129 * "x", "must have 1 to 128 letters for W&B, and this has 129"),
        ("logger.group=" + 129 * "x", "must have 1 to 128 letters for W&B, and this has 129"),
        ("logger.group=''", "logger.group='': must be a text that is not empty"),
        ("model=timm model.name=resnet_18", "model.name='resnet_18': timm has no model of that name; did you mean"),
        ("+foo=1", "foo: unknown key; known: model, data"),
        ("+pruner.ordr=inverse", "pruner.ordr=inverse: no axis of this pruner reads it; did you mean order?"),
        (
            "model=torchvision model.arguments=5",
            "model.arguments=5: must be names with values such as {drop_rate: 0.1}",
        ),
        ("model=torchvision model.pretrained=null", "pretrained=None: must be true, false or one of IMAGENET1K_V1"),
        ("+data.foo=1", "data: got an unexpected keyword argument 'foo'"),
        ("optimizer.lr=1e39", "optimizer.lr=1e+39: must be at most 3.4e+38 in size"),
        ("data.seed=99999999999999999999", "data.seed=99999999999999999999: must be at most 9.22e+18"),
        ("data.seed=1" + 310 * "0", "0: must be at most 9.22e+18"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("run_dir=/dev/null/x", "run_dir=/dev/null/x: must be a directory that can be written"),
        ("optimizer._target_=os.system", "optimizer._target_=os.system: must be a class of midstate"),
        ("trainer.channels_last=${nothing}", "trainer.channels_last=${nothing}: Interpolation key 'nothing' not found"),
        ("trainer.epochs=${oc.env:NO_SUCH_VARIABLE}", "trainer.epochs=${oc.env:NO_SUCH_VARIABLE}: KeyError"),
        ("trainer.sensitivity_kinds=true", "trainer.sensitivity_kinds=True: must be a list such as [share,"),
        ("pruner.exclude=16", "pruner.exclude='16': must be a list such as [layer1.*]"),
    ],
)
def test_bad_values_name_field_value_and_what_is_allowed(overrides, message):
    with pytest.raises(ConfigError) as refused:
        Plan.of(composed(*overrides.split(" ")))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("schedule.start=0.9", "stop=0.75: must not lie before start=0.9"),
        ("schedule.stop=16ep", "stop='16ep': step 1072 lies after the run's end (step 1005)"),
        ("pruner.until=0.1", "until=0.1: masks would freeze"),
        ("pruner.m=7", "no layer is left to prune: m=7 divides the input channels of none of"),
        ("pruner=global_filter pruner.min_density=0.95 schedule.start=0.5", "min_density=0.95: this floor alone costs"),
        ("pruner=magnitude pruner/allocation=uniform_plus pruner.sparsity=0.999", "the least it may keep costs"),
        ("pruner.exclude=[layer9]", "exclude=['layer9']: matches no layer"),
        ("pruner.m=32 pruner.indivisible=error", "input channels not divisible by m=32"),
        ("data=cifar10 data.root=/nowhere data.download=false", "root='/nowhere': no such folder"),
        (
            "model=timm +model.arguments={act_layer:foo}",
            "'act_layer': 'foo'}: KeyError: 'foo'; arguments=null for none",
        ),
        (
            "model=torchvision model.name=vit_b_32 model.small_stem=false",
            "model.name=vit_b_32, data.size=16: AssertionError: Wrong image height",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(overrides, message):
    plan = Plan.of(composed(*overrides.split(" ")))
    with pytest.raises(ConfigError) as refused:
        build_session(plan)
    assert message in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("pruner=nm_blok", "did you mean nm_block?"),
        ("prunr=nm", "did you mean pruner?"),
        ("pruner.ordr=inverse", "did you mean pruner.order?"),
        ("optimzer.lr=1", "did you mean optimizer.lr?"),
        ("lr=0.1", "did you mean optimizer.lr?"),
        ("pruner=nm_step pruner.order=inverse", "order is a setting of pruner/path=blocks"),
        ("model=timm model.arguments={drop_rate:0.1}", "arguments are added: +model.arguments.drop_rate=VALUE"),
        ("seed=abc", "could not be converted to Integer"),
        ("debug=null", "Config group override must be a string"),
        ("seed", "missing EQUAL"),
        ("seed=é", "put the value into quotes"),
        ("pruner.n=17", "pruner.n=17: must be"),
    ],
)
def test_the_command_line_answers_with_status_2_and_writes_nothing(start, tmp_path, overrides, message):
    done = start(*overrides.split(" "))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 8
    assert list(tmp_path.iterdir()) == []


def test_arguments_of_a_model_are_typed_as_documented():
    def identity(*overrides):
        return Plan.of(composed("model=torchvision", "model.name=mobilenet_v2", *overrides))

    plan = identity("model.arguments={dropout: 0.1}")
    assert plan.parts.model.arguments == {"dropout": 0.1}
    assert plan.hash == identity("+model.arguments.dropout=0.1").hash
    assert len({plan.hash, identity().hash, identity("model.arguments={}").hash}) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("pruner=nm pruner/allocation=erk", "pruner/allocation has no effect: every layer is at its least level, 1:16"),
        ("pruner=filter model=timm", "only 0.058 % of the weights are in scope; see pruner/scope"),
        ("pruner=network_slimming schedule.start=0", "pruner/penalty has no effect: units go before the first step"),
    ],
)
def test_what_hardly_prunes_or_has_no_room_is_warned_of(overrides, message, caplog):
    with caplog.at_level("WARNING"):
        build_session(Plan.of(composed(*overrides.split(" "))))
    assert message in caplog.text


def test_times_longer_than_the_run_are_warned_of(caplog):
    names = ("pruner.every", "pruner.until", "trainer.checkpoint_every", "optimizer.warmup", "optimizer.every")
    for time, warned in (("2ep", 0), ("3ep", 5)):
        caplog.clear()
        build_session(Plan.of(composed("trainer.epochs=2", *(f"{name}={time}" for name in names))))
        assert sum(f"{name}={time} is longer than the run" in caplog.text for name in names) == warned
    with pytest.raises(ConfigError, match="lies after the run's end"):
        build_session(Plan.of(composed("trainer.epochs=2", "schedule.stop=3ep")))


@pytest.mark.slow
def test_a_component_whose_file_builds_nothing_is_refused(tmp_path, start):
    """Hydra takes `# @package` from the very first line only."""
    folder = tmp_path / "conf" / "pruner" / "path"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# A comment.\n# @package pruner\npath:\n  _target_: midstate.sparsity.Direct\n")
    done = start("--config-dir", str(tmp_path / "conf"), "pruner/path=mine", "run_dir=run")
    assert done.returncode == 2
    assert "needs `# @package pruner` as its very first line" in done.stderr
    assert not (tmp_path / "run").exists()
