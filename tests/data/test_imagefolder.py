"""Folders of images: a run end to end, and what is wrong with folders said in one line."""

import json
import re
import shutil

import pytest
from conftest import composed
from PIL import Image

from midstate.common.errors import ConfigError
from midstate.data import Augmentation, Crops, ImageFolder, TimmData
from midstate.runs.plan import Plan

RUN = ("data=imagefolder", "data.root=images", "data.size=16", "data.resize=18", "data.num_validation=6")
RUN += ("model.widths=[16,16,16]", "trainer.batch_size=6", "trainer.threads=1", "machine.workers=1", "logger=none")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def load(folder, **settings):
    return ImageFolder(augmentation=Crops(), root=str(folder), **{"num_validation": 6, **settings}).load()


@pytest.mark.slow
def test_a_run_learns_and_skips_what_is_damaged(folder, start, tmp_path):
    truncate(folder / "val/green/03.jpg")
    run = (*RUN, "trainer.epochs=5", "trainer.probes=false", "pruner=nm", "pruner.n=4", "run_dir=run")
    run += ("data/augmentation=lighting",)
    failed = start(*run)
    assert failed.returncode == 3
    assert failed.stderr.count("green/03.jpg cannot be read") == failed.stderr.count("\n") == 1
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"
    truncate(folder / "train/blue/05.jpg")
    done = start(*run, "data.on_error=skip")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "run_dir: run"), done.stderr
    assert done.stdout.count("going on from step 25 of 25") == 1
    assert done.stdout.count("green/03.jpg cannot be read") == done.stdout.count("blue/05.jpg cannot be read") == 1
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["data"], summary["images_skipped"]) == ("finished", "imagefolder", 2)
    assert summary["top1"] > 60  # by colour alone


@pytest.mark.slow
def test_the_runs_of_a_pool_have_processes_of_their_own(folder, start, tmp_path):
    done = start("-m", *RUN, "trainer.epochs=1", "pruner=dense", "launcher=pool", "machine.workers=2", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("outputs/*/*/seed*/summary.json"))) == 2


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda root: shutil.rmtree(root), {}, "root='.*images': no such folder"),
        (lambda root: None, {"test": "test"}, "test='test': no such folder in .*; there are train, val"),
        (lambda root: (root / "train/grey").mkdir(), {}, "train='train': no image in .* of grey"),
        (
            lambda root: (root / "val/red").rename(root / "val/pink"),
            {},
            "red missing and pink only there$",
        ),
        (lambda root: shutil.rmtree(copied(root) / "red"), {"validation": "copy"}, "validation='copy': .*red missing$"),
        (
            lambda root: None,
            {"validation": "val"},
            "test='val': 15 of its images are of validation='val', too, such as",
        ),
        (
            lambda root: None,
            {"test": "../images/train"},
            "test='../images/train': 36 of its images are of train='train'",
        ),
        (
            lambda root: shutil.move(root / "val", root / "train/a"),
            {"test": "train/a"},
            "test='train/a': 15 .* of train=",
        ),
        (lambda root: (root / "val/red/00.jpg").symlink_to(moved(root)), {}, "test='val': 1 of its images .*blue/00"),
        (lambda root: None, {"num_classes": 4}, "num_classes=4: .*train has 3"),
        (lambda root: flatten(root / "val"), {}, "test='val': .*val holds images, and no folder for each class"),
        (lambda root: (root / "empty").mkdir(), {"test": "empty"}, "empty holds no folders, one for each class"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(folder, change, settings, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        load(folder, **settings)


def copied(root):
    return shutil.copytree(root / "val", root / "copy")


def moved(root):
    (root / "val/red/00.jpg").unlink()
    return root / "train/blue/00.jpg"


@pytest.mark.parametrize("name", [None, "folder", "torch/folder"])
def test_links_list_no_image_twice_and_hidden_folders_are_left_out(folder, name):
    expected = load(folder).train.source.samples
    (folder / "train/blue/again").symlink_to("..")
    (folder / "train/green/once_more.jpg").symlink_to("03.jpg")
    (folder / "train/.cache").mkdir()
    shutil.copytree(folder / "val/red", folder / "train/.thumbnails")
    shutil.copytree(folder / "val/red", folder / "train/red/.thumbnails")
    settings = {"augmentation": Crops(), "root": str(folder), "num_validation": 6}
    data = (ImageFolder(**settings) if name is None else TimmData(name=name, **settings)).load()
    assert sorted(data.train.source.samples) == sorted(expected)
    assert (len(data.train), len(data.validation), data.num_classes) == (30, 6, 3)


def test_the_home_folder_may_be_written_short(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(load("~/images").test) == 15


def flatten(folder):
    for name in [entry for entry in folder.iterdir() if entry.is_dir()]:
        shutil.rmtree(name)
    Image.new("RGB", (4, 4)).save(folder / "one.jpg")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("data.on_error=ignore", "data.on_error='ignore': must be one of fail, skip"),
        ("data.size=300", "data.resize=256: must be a whole number, 300 or more"),
        ("machine.workers=-1", "machine.workers=-1: must be"),
    ],
)
def test_bad_settings_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        Plan.of(composed("data=imagefolder", overrides))


def test_what_changes_no_result_is_no_part_of_a_run():
    plans = [Plan.of(composed("data=imagefolder", f"machine.{what}")) for what in ("workers=3", "prefetch=4")]
    assert plans[0].hash == plans[1].hash == Plan.of(composed("data=imagefolder", "data.on_error=skip")).hash
    assert plans[0].hash != Plan.of(composed("data=imagefolder", "data.resize=300")).hash


def test_augmentation_of_files_is_not_for_data_in_memory(start):
    done = start("data=clutter", "data/augmentation=timm")
    assert done.returncode == 2
    assert re.search(r"data/augmentation.*; it goes with data=imagefolder or imagenet or timm", done.stderr), (
        done.stderr
    )


def test_augmentation_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="must be one of data/augmentation"):
        ImageFolder(augmentation=Augmentation(0, False), root="images")
