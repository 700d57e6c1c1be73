"""Runs of earlier versions: `tests/format_1` was written by the first format, and is never written again.

python train.py pruner=nm_block schedule=linear data=digits data.augmentation.crop_padding=1 model.widths=[16,16,16]
trainer.epochs=2 trainer.max_steps_per_epoch=4 trainer.device=cpu logger=none
"""

import json
import shutil

import pytest
import torch
from conftest import ROOT, composed

from midstate.common.errors import ConfigError, RunFailed
from midstate.runs.figures import read_table
from midstate.runs.files import read_summary
from midstate.runs.run import run

OLD = ROOT / "tests" / "format_1"
JOB = ("pruner=nm_block", "schedule=linear", "data=digits", "data.augmentation.crop_padding=1", "logger=none")
JOB = (*JOB, "model.widths=[16,16,16]", "trainer.epochs=2", "trainer.max_steps_per_epoch=4", "trainer.device=cpu")


@pytest.fixture
def copied(tmp_path):
    return shutil.copytree(OLD, tmp_path / "run")


def test_a_finished_run_of_format_1_is_known_as_such(copied, capsys):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert run(composed(*JOB, f"run_dir={copied}")) == read_summary(OLD)["val_top1"]
    assert "pattern verified      yes" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_of_format_1_goes_on_from_its_checkpoint(copied):
    (copied / "summary.json").unlink()
    shutil.rmtree(copied / "figures", ignore_errors=True)
    run(composed(*JOB, f"run_dir={copied}"))
    old, new = ([row["loss"] for row in read_table(place / "losses.csv")] for place in (OLD, copied))
    assert new[:4] == old[:4]  # as they were saved
    assert new == pytest.approx(old, abs=1e-2)
    old, new = read_summary(OLD), read_summary(copied)
    for key in ("format", "config_hash", "numerics", "params_nonzero", "macs_sparse", "pattern_verified", "layers"):
        assert new[key] == old[key]
    assert (copied / "figures" / "accuracy.png").exists()


def test_finished_weights_of_format_1_begin_other_runs(tmp_path):
    weights = OLD / "checkpoints" / "final.pt"
    # At a rate that changes next to nothing.
    run(composed(*JOB, "pruner=dense", f"model.checkpoint={weights}", "optimizer.lr=1e-30", f"run_dir={tmp_path}"))
    new, old = (torch.load(place / "checkpoints" / "final.pt", weights_only=True)["model"] for place in (tmp_path, OLD))
    for name in (name for name in old if name.endswith("weight")):
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-20)


def test_a_later_format_is_refused_and_left_alone(copied):
    summary = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text(json.dumps({**summary, "format": 2}))
    before = (copied / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="is of format 2, and 1 is the last that is known here"):
        run(composed(*JOB, f"run_dir={copied}"))
    assert (copied / "summary.json").read_bytes() == before


@pytest.mark.parametrize("content", ["[1, 2]", "5", "{}", "{a: 1}"])
@pytest.mark.parametrize("rerun", ["true", "false"])
def test_a_directory_of_something_else_is_left_alone(tmp_path, content, rerun):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "paper.pdf").write_text("mine")
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        run(composed(*JOB, f"run_dir={tmp_path}", f"rerun={rerun}"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "figures", "paper.pdf"]


def test_the_result_of_another_configuration_is_not_taken_for_this_ones(copied):
    (copied / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="holds the result of configuration 075a3e6475af, seed 0; choose another"):
        run(composed(*JOB, "optimizer.lr=0.01", f"run_dir={copied}"))


def test_what_is_in_the_way_of_a_rerun_is_named_and_what_was_done_is_no_result(copied):
    (copied / "metrics.csv").unlink()
    (copied / "metrics.csv").mkdir()
    with pytest.raises(RunFailed, match=r"rerun=true: .*metrics.csv cannot be removed"):
        run(composed(*JOB, f"run_dir={copied}", "rerun=true"))
    assert not (copied / "summary.json").exists()
    assert (copied / "config.yaml").exists()


@pytest.mark.parametrize("file", ["summary.json", "config.yaml"])
def test_a_damaged_file_is_named_and_left_alone(copied, file):
    content = b"{" + (copied / file).read_bytes()[:40]
    (copied / file).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{file}: cannot be read .*remove it, or choose another"):
        run(composed(*JOB, f"run_dir={copied}"))
    assert (copied / file).read_bytes() == content
