"""What a configuration may not do: run code that is not this package's, leave its place, or tell secrets."""

import os

import pytest
from omegaconf import OmegaConf

from midstate.common.errors import ConfigError
from midstate.common.secrets import redact
from midstate.config.building import build
from midstate.config.overrides import check_command_line

FOREIGN = (
    "builtins.open",
    "builtins.eval",
    "pathlib.Path",
    "pathlib.Path.write_text",
    "shutil.copy",
    "os.system",
    "subprocess.run",
    "functools.partial",
    "hydra.utils.instantiate",
    "midstate.study.process.os.system",  # by way of our own modules
    "midstate.common.project.subprocess.run",
    "midstate.runs.directory.shutil.copy",
    "midstate.config.building.OmegaConf.save",
    "midstate.runs.files.write_summary",  # ours, and no class
    "midstate.no_such_thing",
    "no such thing",
    "midstate.models:CifarResNet",
    "midstate",
    0.9,
    True,
    None,
    ["midstate.sparsity.NM"],
)


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize(
    "place",
    [
        lambda target: target,
        lambda target: {**target, "_partial_": True},
        lambda target: {"below": target},
        lambda target: {"_target_": "midstate.sparsity.NM", "n": 1, "m": target},
        lambda target: {"_target_": "midstate.sparsity.NM", "_args_": [1, target]},
        lambda target: {"list": [[target]]},
    ],
)
def test_targets_elsewhere_are_refused_wherever_they_stand(target, place, tmp_path):
    arguments = {"file": str(tmp_path / "written"), "mode": "w"} if target == "builtins.open" else {}
    config = OmegaConf.create({"node": place({"_target_": target, **arguments})})
    with pytest.raises(ConfigError, match=r"node.*_target_=|only _target_ may stand"):
        build(config, "node")
    assert not list(tmp_path.iterdir())


def test_nothing_is_imported_to_look_at_a_foreign_target(tmp_path, monkeypatch):
    (tmp_path / "harmful.py").write_text(f"open({str(tmp_path / 'written')!r}, 'w')\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="must be a class of midstate"):
        build(OmegaConf.create({"node": {"_target_": "harmful.Thing"}}), "node")
    assert not (tmp_path / "written").exists()


def test_all_targets_are_checked_before_any_is_called(start, tmp_path):
    done = start(
        "pruner.criterion._target_=builtins.open", "+pruner.criterion.file=written", "+pruner.criterion.mode=w"
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    "override",
    [
        "hydra.callbacks.mine._target_=builtins.open",
        "+hydra={callbacks:{mine:{_target_:builtins.open,file:written,mode:w}}}",
        "hydra={searchpath:[file:///tmp]}",
        "+pruner/pattern@hydra.callbacks.mine=nm",
        "+pruner/pattern@_global_.hydra.callbacks.mine=nm",
        "+hydra.launcher.mine=${pruner.n}",
        "hydra.sweeper.params=${pruner.n}",
        "hydra.sweeper.params.seed=1,2",
        "hydra/sweeper=../../mine",
        "pruner=nm,../../mine",
        "experiment=[c1_dense,/etc/mine]",
        "hydra.run.dir=elsewhere",
        "+hydra.callbacks.mine={_target_:builtins.open}",
        "++hydra/callbacks=mine",
        "hydra.launcher._target_=builtins.open",
        "hydra.launcher.setup=[touch written]",
        "+hydra.launcher.python=touch",
        "hydra.launcher.submitit_folder=/tmp/mine",
        "+hydra.launcher.additional_parameters.wrap=touch",
        "hydra.launcher.additional_parameters.requeue=false",
        "hydra.launcher.partition='x\ntouch written'",  # a line of the batch script
        "hydra.launcher.partition=${oc.env:HOME}",
        "+hydra.launcher.ray.init.runtime_env.py_executable=touch",
        "hydra.launcher.ray.init.address=elsewhere:6379",
        "+hydra.launcher.ray.init._temp_dir=/tmp/mine",
        "+hydra.launcher.ray.init.dashboard_host=0.0.0.0",
        "+hydra.launcher.ray.remote.runtime_env=x",
        "hydra.launcher.ray={init:{}}",
        "hydra.sweeper.custom_search_space=os.system",
        "hydra.sweeper.storage=redis://elsewhere",
        "+hydra.sweeper.params.seed=1,2",
        "hydra.sweeper.sampler._target_=os.system",
        "hydra.sweeper.sampler=x",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper={_target_:builtins.open}",
        "hydra.searchpath=[file:///tmp]",
        "hydra.job.env_set.LD_PRELOAD=x",
        "hydra.job.chdir=true",
        "~hydra.run.dir.x",
        "hydra/job_logging=default",
    ],
)
def test_settings_of_hydra_that_run_first_are_refused(override):
    with pytest.raises(ConfigError, match=r"only launcher, sweeper, verbose|nothing may be put below|not a path"):
        check_command_line([override])


def test_what_was_checked_is_what_is_built(start, tmp_path):
    # Resolved once this is a harmless text; resolved once more it would be a target.
    escaped = r"model.widths=\${logger.harm}"
    done = start(escaped, "+logger.harm={_target_:builtins.open,file:written,mode:w}", "debug=fast")
    assert done.returncode == 2
    assert "model.widths=${logger.harm}: a value must not hold ${" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [
    ("experiment={}/evil",), ("pruner={}/evil",), ("-m", "hydra/launcher={}/evil"), ("-m", "pruner=nm,{}/evil"),
    ("experiment=/{}/evil",), ("--config-name", "{}/evil"), ("-cn={}/evil",), ("--config-p", "{}"), ("-cp", "{}"),
])  # fmt: skip
def test_files_elsewhere_are_no_members(start, tmp_path, arguments):
    harm = "{_target_: builtins.open, file: %s, mode: w}" % (tmp_path / "written")
    (tmp_path / "evil.yaml").write_text(f"# @package _global_\nhydra:\n  callbacks:\n    mine: {harm}\n")
    up = "../" * 20 + str(tmp_path).lstrip("/")
    done = start(*(argument.format(up) for argument in arguments))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["evil.yaml"]


def test_paths_may_stand_where_paths_belong():
    check_command_line(["run_dir=/tmp/x", "data.root=../d", "model.checkpoint=../a", "logger.tags=[a,b]", "pruner=a,b"])
    check_command_line(["--config-dir", "../mine", "pruner=nm"])


@pytest.mark.parametrize("option", ["--experimental-rerun", "--exp"])
def test_hydras_pickles_are_not_read(start, tmp_path, option):
    (tmp_path / "config.pickle").write_bytes(b"cbuiltins\nopen\n(S'written'\nS'w'\ntR.")
    done = start(option, "config.pickle")
    assert done.returncode == 2
    assert "--experimental-rerun: not here" in done.stderr
    assert not (tmp_path / "written").exists()


def test_settings_of_hydra_that_are_harmless_are_left():
    check_command_line(
        ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=4", "hydra.verbose=true", "hydra.sweep.dir=../elsewhere"]
    )
    check_command_line(["hydra.launcher.partition=gpu", "hydra.launcher.ray.init.num_cpus=2"])
    check_command_line(["hydra.sweeper.n_trials=9", "hydra.sweeper.sampler.seed=1"])


def test_a_callback_does_not_run(start, tmp_path):
    done = start("+hydra.callbacks.mine._target_=builtins.open", "+hydra.callbacks.mine.file=written")
    assert done.returncode == 2
    assert "configuration error" in done.stderr
    assert not list(tmp_path.iterdir())


SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "overrides",
    [
        ("pruner.n=${oc.env:WANDB_API_KEY}",),
        ("+${oc.env:WANDB_API_KEY}=1",),
        ("logger.tags=[${oc.env:WANDB_API_KEY}]", "debug=fast"),
        ("debug=fast", "logger=wandb", "logger.tags=[${oc.env:WANDB_API_KEY}]", "logger.group=${oc.env:WANDB_API_KEY}"),
        ("debug=fast", "logger=wandb", "logger.project=x${oc.env:WANDB_API_KEY}"),
        ("run_dir=${oc.env:WANDB_API_KEY}",),
        ("-m", "launcher=pool", "hydra.launcher.batch_size=${oc.env:WANDB_API_KEY}"),
        ("model=timm", "+model.arguments.act_layer=${oc.env:WANDB_API_KEY}"),
        ("-m", "pruner.n=${oc.env:WANDB_API_KEY}", "logger=none"),
        ("schedule=one_shot", "schedule.stop=${oc.env:WANDB_API_KEY}", "pruner=nm", "debug=fast", "logger=none"),
    ],
)
@pytest.mark.slow
def test_secrets_are_told_nowhere(start, tmp_path, overrides):
    small = ("data.train_placements=1", "data.eval_placements=1", "trainer.probes=false")
    done = start(*overrides, *small, WANDB_API_KEY=SECRET, WANDB_MODE="offline")
    assert SECRET not in done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert SECRET not in str(path)
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_secrets_are_found_quoted_overlapping_and_in_lines(monkeypatch):
    monkeypatch.setenv("A_KEY", "abcdefgh")
    monkeypatch.setenv("B_KEY", "abcdefgh-and-more")
    monkeypatch.setenv("MY_PASSWORD", "pa'ss\"wo\rd \u00e9")
    monkeypatch.setenv("MY_TOKEN", "first line\nsecond line")
    monkeypatch.setenv("SHORT_KEY", "abc")
    assert redact("abcdefgh-and-more, abcdefgh") == "<B_KEY>, <A_KEY>"
    assert redact(f"seed={os.environ['MY_PASSWORD']!r}") == "seed='<MY_PASSWORD>'"
    assert redact({"x": ["second line"]}) == {"x": ["<MY_TOKEN>"]}
    assert redact("abc") == "abc"


@pytest.mark.parametrize("option", ["--resolve", "--res"])
def test_a_printed_configuration_tells_no_secret(start, option):
    done = start("--cfg", "job", option, "logger.project=${oc.env:WANDB_API_KEY}", WANDB_API_KEY=SECRET)
    assert done.returncode == 0
    assert "project: <WANDB_API_KEY>" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["../pruner/nm", "../../conf/pruner/nm", "/etc/passwd"])
def test_names_do_not_lead_out_of_the_outputs(start, tmp_path, name):
    done = start(f"+experiment={name}", "debug=fast", "logger=none")
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())
