"""Searches: Optuna's really run; of Weights & Biases' what can be without its service."""

import csv
import json
import os
import signal
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT, TINY, begin, composed, wait_for
from test_cli import wandb_records
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from midstate.config.overrides import check_command_line
from midstate.runs.plan import Plan
from midstate.runs.tracking import METRICS

SEARCH = ("sweep=optuna_lr", "pruner=nm", *TINY, "trainer.epochs=2", "trainer.probes=false", "optimizer.warmup=0")


def runs_of(place):
    return {path.parent: json.loads(path.read_text()) for path in place.glob("outputs/nm/*/seed0/summary.json")}


def last_validation(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["val/top1"])


@pytest.mark.slow
def test_trials_are_ordinary_runs_and_the_best_on_validation_wins(start, tmp_path):
    done = start(*SEARCH, "hydra.sweeper.n_trials=3")  # also without -m
    assert done.returncode == 0, done.stderr
    found = runs_of(tmp_path)
    assert len(found) == 3
    rates = {}
    for directory in found:
        rates[directory] = yaml.safe_load((directory / "config.yaml").read_text())["optimizer"]["lr"]
        assert 0.001 <= rates[directory] <= 1
        # The very run that it would be by itself.
        assert Plan.of(composed(*SEARCH[1:], f"optimizer.lr={rates[directory]}")).hash == directory.parent.name
    best = yaml.safe_load((tmp_path / "outputs" / "multirun" / "optimization_results.yaml").read_text())
    assert best["best_value"] == pytest.approx(max(map(last_validation, found)))
    assert best["best_value"] == pytest.approx(
        last_validation(next(d for d in found if found[d]["val_top1"] == best["best_value"]))
    )
    assert best["best_params"]["optimizer.lr"] in [rates[d] for d in found if last_validation(d) == best["best_value"]]
    again = start("-m", *SEARCH, "hydra.sweeper.n_trials=3")
    assert again.stdout.count("finished before") == 3


@pytest.mark.slow
def test_a_search_goes_on_past_runs_that_diverge(start, tmp_path):
    done = start(*SEARCH, "optimizer.lr=choice(0.05,1e30)", "hydra.sweeper.n_trials=4")
    assert done.returncode == 0, done.stderr
    assert sorted(summary["status"] for summary in runs_of(tmp_path).values()) == ["failed", "finished"]
    assert "failed: diverged" in done.stderr
    assert "Best parameters: {'optimizer.lr': 0.05}" in done.stdout
    none = start(*SEARCH, "optimizer.lr=1e30", "hydra.sweeper.n_trials=2")
    assert none.returncode == 3
    assert none.stderr.splitlines()[-1] == "run failed: no trial of the sweep has finished"
    assert "Traceback" not in none.stderr


@pytest.mark.slow
def test_a_search_ends_at_a_configuration_that_cannot_run(start, tmp_path):
    done = start(*SEARCH, "pruner.n=99")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "configuration error: pruner.n=99: must be a whole number from 1 to 16"
    assert done.stderr.count("job ") == 1
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["multirun"]


@pytest.mark.slow
def test_a_search_in_a_pool_that_is_asked_to_stop_ends_with_75(tmp_path):
    """Also with a worker that has no job."""
    process = begin(
        tmp_path, *SEARCH, "launcher=pool", "hydra.sweeper.n_trials=3", "trainer.epochs=400", "trainer.threads=1"
    )
    tables = "outputs/nm/*/*/metrics.csv"
    wait_for(process, lambda: any(len(path.read_bytes()) > 200 for path in tmp_path.glob(tables)))
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    assert [summary["status"] for summary in runs_of(tmp_path).values()] == ["stopped"]
    assert "Best parameters" not in output


SWEEP = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())


def choices(parameter):
    return parameter["values"] if "values" in parameter else [parameter["min"], parameter["max"]]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in SWEEP["parameters"] for value in choices(SWEEP["parameters"][name])]
)
def test_each_parameter_of_the_wandb_sweep_is_one_of_train_py(name, value):
    Plan.of(composed("pruner=nm_block", f"{name}={value}"))


def test_the_wandb_sweep_watches_validation_as_it_is_logged():
    assert SWEEP["metric"] == {"name": "val/top1", "goal": "maximize"}
    assert SWEEP["metric"]["name"] in METRICS


@pytest.mark.slow
def test_the_command_that_an_agent_of_wandb_makes_trains(tmp_path):
    """As its own code puts it together, in the environment that it makes; offline."""
    args = {name: {"value": choices(parameter)[0]} for name, parameter in SWEEP["parameters"].items()}
    replaced = create_sweep_command_args({"args": args})
    replaced |= {"env": ["/usr/bin/env"], "program": [str(ROOT / SWEEP["program"])]}
    command = []
    for part in create_sweep_command(SWEEP["command"]):
        name = part[2:-1] if part.startswith("${") else None
        command += replaced[name] if name else [part]
    assert command[0] == "/usr/bin/env"
    command[1] = sys.executable
    check_command_line(command[3:])
    command[command.index("logger.mode=online")] = "logger.mode=offline"
    tiny = [setting for setting in TINY if not setting.startswith("logger")]
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, **args}))
    sweep = {"WANDB_SWEEP_ID": "abcd1234", "WANDB_RUN_ID": "efgh5678", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    done = subprocess.run(
        [*command, *tiny], cwd=tmp_path, env={**os.environ, **sweep}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    (directory,) = (path.parent for path in tmp_path.glob("outputs/*/*/*/summary.json"))
    records = wandb_records(directory)
    assert records["run"][0]["run_id"] == "efgh5678"  # the service's, so that it finds what it asked for
    assert records["run"][0]["sweep_id"] == "abcd1234"
    logged = [record["item"]["val/top1"] for record in records["history"] if "val/top1" in record["item"]]
    assert len(logged) == 4
    assert logged[-1] == pytest.approx(last_validation(directory))
