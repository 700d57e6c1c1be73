"""Images in files: the same images, in the same order, whoever decodes them and whenever."""

import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import begin, wait_for
from PIL import Image
from torch import nn
from torchvision.transforms import functional

from midstate.common.errors import RunFailed
from midstate.data import Crops, ImageFolder, Preparation, Split, Stored, TimmAugmentation, TimmData
from midstate.data.augmentations import Lighting
from midstate.data.decoding import seeded
from midstate.engine.evaluate import evaluate

SMALL = ("data=imagefolder", "data.size=16", "data.resize=18", "data.num_validation=6", "model.widths=[16,16,16]")
SMALL += ("trainer.batch_size=4", "trainer.threads=1", "trainer.probes=false", "logger=none")


def images(folder, **settings):
    settings = {"augmentation": Crops(color_jitter=0.4, lighting=0.1), "size": 16, "resize": 18, **settings}
    return ImageFolder(root=str(folder), **{"num_validation": 6, "workers": 0, **settings}).load()


def everything(batches):
    found = list(batches)
    return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_evaluation_resizes_crops_normalises_and_keeps_the_order_of_files(folder):
    data = images(folder, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    seen, labels = everything(data.test.batches(4))
    files = sorted((folder / "val").glob("*/*.jpg"))
    assert labels.tolist() == [["blue", "green", "red"].index(file.parent.name) for file in files]
    for file, image in list(zip(files, seen, strict=True))[::4]:
        original = Image.open(file).convert("RGB")
        width, height = original.size
        short = min(width, height)
        resized = original.resize((int(18 * width / short), int(18 * height / short)), Image.Resampling.BILINEAR)
        left, top = round((resized.width - 16) / 2), round((resized.height - 16) / 2)
        pixels = np.asarray(resized.crop((left, top, left + 16, top + 16)), dtype=np.float32) / 255
        expected = (pixels - (0.5, 0.4, 0.3)) / (0.1, 0.2, 0.3)
        assert torch.allclose(image, torch.tensor(expected, dtype=torch.float32).permute(2, 0, 1), atol=1e-5)


def test_splits_are_shuffled_and_share_no_image(folder):
    data = images(folder)
    assert (len(data.train), len(data.validation), len(data.test), data.num_classes) == (30, 6, 15, 3)
    assert data.shape == (3, 16, 16)
    assert sorted([*data.train.indices.tolist(), *data.validation.indices.tolist()]) == list(range(36))
    assert data.train.labels[:10].unique().numel() == 3
    assert torch.equal(data.train.labels, torch.as_tensor(data.train.source.targets)[data.train.indices])
    assert not torch.equal(images(folder, seed=1).validation.indices, data.validation.indices)
    shutil.copytree(folder / "val", folder / "held_out")
    again = images(folder, validation="held_out")
    assert (len(again.train), len(again.validation)) == (36, 15)


def test_the_first_images_are_those_of_evaluation(folder):
    data = images(folder, on_error="skip").to(torch.device("cpu"))
    seen, labels = everything(data.train.batches(4))
    first = data.train.first(7)
    assert isinstance(first, Split)
    assert same((first.images, first.labels), (seen[:7], labels[:7]))
    assert len(data.train.first(1000)) == 30
    broken = Path(data.train.source.samples[data.train.indices[2]][0])
    truncate(broken)
    rest = torch.tensor([0, 1, 3, 4, 5, 6, 7])
    first = images(folder, on_error="skip").train.first(7)  # the next takes the place
    assert same((first.images, first.labels), (seen[rest], labels[rest]))


def test_batches_do_not_depend_on_the_number_of_workers_or_on_a_stop_in_between(folder):
    runs = {workers: images(folder, workers=workers).train for workers in (0, 2)}
    batches = {workers: split.training(4, Crops(lighting=0.1), seed=3) for workers, split in runs.items()}
    assert batches[0].steps_per_epoch == 7  # two images are left over
    whole = {workers: [list(each.epoch(epoch)) for epoch in (0, 1)] for workers, each in batches.items()}
    for epoch in (0, 1):
        assert same(everything(whole[0][epoch]), everything(whole[2][epoch]))
        assert everything(whole[0][epoch])[1].bincount().sum() == 28
    assert not torch.equal(whole[0][0][0][0], whole[0][1][0][0])
    begun = batches[2].epoch(0)
    assert same(next(begun), whole[0][0][0])
    begun.close()
    assert same(everything(batches[2].epoch(1, first_step=3)), everything(whole[0][1][3:]))
    for each in batches.values():
        each.close()
    assert same(everything(runs[0].batches(250)), everything(runs[2].batches(250)))
    assert len(list(runs[0].training(4, Crops(), 3, max_steps=2).epoch(0))) == 2
    assert runs[0].training(64, Crops(), 3).batch_size == 30


@pytest.mark.parametrize("augmentation", [Crops(color_jitter=0.4), TimmAugmentation("rand-m9-mstd0.5-inc1", re_prob=1)])
def test_augmentation_is_drawn_by_image_and_moves_no_generator_of_training(folder, augmentation):
    split = images(folder).train
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    one = everything(split.training(4, augmentation, 3).epoch(2))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
    assert torch.equal(torch.get_rng_state(), before[2])
    torch.manual_seed(2)
    assert same(one, everything(split.training(4, augmentation, 3).epoch(2)))
    assert not torch.equal(one[0], everything(split.training(4, augmentation, 4).epoch(2))[0])


def test_ranks_see_together_what_one_process_would(folder):
    split = images(folder).train
    whole = list(split.training(5, Crops(), 3).epoch(1))
    parts = [list(split.training(5, Crops(), 3, rank=rank, num_ranks=2).epoch(1)) for rank in (0, 1)]
    for step, batch in enumerate(whole):
        assert [len(part[step][1]) for part in parts] == [3, 2]
        assert same(everything([part[step] for part in parts]), batch)
    evaluated = [list(split.batches(4, rank, 2)) for rank in (0, 1)]
    assert [len(batches) for batches in evaluated] == [4, 4]
    for index, batch in enumerate(split.batches(4)):
        assert same(evaluated[index % 2][index // 2], batch)
    assert list(split.batches(250, 1, 2)) == []  # fewer batches than processes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_or_skipped(folder, workers, caplog):
    damaged = folder / "train/green/03.jpg"
    truncate(damaged)
    (folder / "val/red/02.jpg").write_text("no image")
    train = images(folder, workers=workers).train
    with pytest.raises(RunFailed, match=r"image .*green/03.jpg cannot be read \(.*\); data.on_error=skip goes on"):
        list(train.training(30, Crops(), 0).epoch(0))
    with pytest.raises(RunFailed, match=r"red/02.jpg cannot be read \(it is no image\)"):
        list(images(folder, workers=workers).test.batches(4))
    data = images(folder, workers=workers, on_error="skip")
    batches = data.train.training(10, Crops(), 0)
    assert [len(labels) for epoch in (0, 1) for _, labels in batches.epoch(epoch)] == [10] * 6
    batches.close()
    assert sum(len(labels) for _, labels in data.test.batches(4)) == 14
    assert len(data.skipped) == 2
    assert [record.message.count("is skipped") for record in caplog.records] == [1, 1]


@pytest.mark.parametrize("name", [None, "folder", "torch/folder"])
def test_images_of_16_bits_are_scaled_and_others_that_have_not_8_refused(folder, name):
    grey = np.full((20, 20), 257 * 100, dtype=np.uint16)
    for file in (folder / "val").glob("*/*.jpg"):
        file.unlink()
        Image.fromarray(grey).save(file.with_suffix(".png"))
    settings = {"mean": (0, 0, 0), "std": (1, 1, 1), "size": 16, "resize": 16, "num_validation": 6, "workers": 0}
    settings |= {"root": str(folder), "augmentation": Crops()}
    data = (ImageFolder(**settings) if name is None else TimmData(name=name, **settings)).load()
    seen, _ = everything(data.test.batches(4))
    assert torch.allclose(seen, torch.full_like(seen, 100 / 255))
    Image.fromarray(grey.astype(np.float32)).save(folder / "val/red/02.png", format="TIFF")
    with pytest.raises(RunFailed, match=r"red/02.png cannot be read \(mode F is not 8 bits a channel\); .*skip"):
        list(data.test.batches(4))


def test_a_file_that_is_gone_is_no_damaged_image(folder):
    data = images(folder, on_error="skip")
    (folder / "val/red/02.jpg").unlink()
    with pytest.raises(RunFailed, match=r"red/02.jpg cannot be read \(\[Errno 2\] No such file"):
        list(data.test.batches(4))


def test_nothing_that_can_be_read_is_said(folder):
    for file in [*(folder / "val").glob("*/*"), *(folder / "train").glob("*/*")]:
        truncate(file)
    data = images(folder, on_error="skip")
    for read in (lambda: evaluate(nn.Flatten(), data.test), lambda: data.train.first(3)):
        with pytest.raises(RunFailed, match="no image of a split can be read"):
            read()
    with pytest.raises(RunFailed, match="no image of the train split can be read"):
        list(data.train.training(4, Crops(), 0).epoch(0))


def test_errors_that_are_not_of_reading_stay_what_they_are(folder):
    class Faulty:
        def transform(self, preparation):
            return lambda image: 1 // 0

    with pytest.raises(ZeroDivisionError):
        list(images(folder).train.training(4, Faulty(), 0).epoch(0))


def test_crops_without_chance_are_the_resized_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    preparation = Preparation(20, 20, (0.5,) * 3, (0.5,) * 3)
    transform = Crops(scale=(1, 1), ratio=(1, 1), flip=False).transform(preparation)
    expected = (functional.to_tensor(image.resize((20, 20), Image.Resampling.BILINEAR)) - 0.5) / 0.5
    assert torch.allclose(transform(image), expected, atol=1e-5)
    assert torch.allclose(preparation.evaluation()(image), expected, atol=1e-5)


def test_lighting_moves_all_pixels_along_the_principal_colours():
    with seeded(5):
        a, b, c = (0.1 * torch.randn(3)).tolist()
    with seeded(5):
        lit = Lighting(0.1)(torch.zeros(3, 2, 2))
    red = -0.5675 * 0.2175 * a + 0.7192 * 0.0188 * b + 0.4009 * 0.0045 * c
    green = -0.5808 * 0.2175 * a - 0.0045 * 0.0188 * b - 0.8140 * 0.0045 * c
    blue = -0.5836 * 0.2175 * a - 0.6948 * 0.0188 * b + 0.4203 * 0.0045 * c
    assert torch.allclose(lit, torch.tensor([red, green, blue])[:, None, None].expand(3, 2, 2), atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crops(scale=[0.5, 0.1]), r"scale=\[0.5, 0.1\]: must be the smallest and the largest"),
        (lambda: Crops(scale=[0.5, 2]), "scale=2"),
        (lambda: Crops(ratio=1), "ratio=1: must be"),
        (lambda: Preparation(20, 16, (0, 0, 0), (1, 1, 1)), "resize=16: must be a whole number, 20 or more"),
        (lambda: Preparation(20, 20, (0, 0), (1, 1, 1)), "mean=.*three numbers"),
        (lambda: Preparation(20, 20, (0, 0, 0), (1, 0, 1)), "std=0"),
        (lambda: TimmAugmentation("rand-mxx"), "auto_augment='rand-mxx': must be rand and its numbers"),
        (lambda: TimmAugmentation("nonsense").transform(Preparation(8, 8, (0,) * 3, (1,) * 3)), "nonsense.*policy"),
        (lambda: Stored(None, torch.arange(0), None, None).check("test", 3), "test split has no images"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def losses(folder):
    return (folder / "losses.csv").read_text()


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="children are looked up in /proc")
def test_a_stop_leaves_no_process_and_the_same_command_goes_on_exactly(folder, start, tmp_path):
    common = (*SMALL, f"data.root={folder}", "trainer.epochs=6", "trainer.checkpoint_every=1it")
    assert start(*common, "machine.workers=0", "run_dir=whole").returncode == 0
    process = begin(tmp_path, *common, "machine.workers=2", "run_dir=stopped", start_new_session=True)
    wait_for(process, lambda: (tmp_path / "stopped/checkpoints/step-000000010.pt").exists())
    at_work = children(process)
    assert len(at_work) >= 2
    os.killpg(process.pid, signal.SIGTERM)  # as a batch system does
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped at step" in output
    assert not [pid for pid in at_work if Path(f"/proc/{pid}").exists()]
    done = start(*common, "machine.workers=1", "run_dir=stopped")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "run_dir: stopped"), done.stderr
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="children are looked up in /proc")
def test_a_process_that_is_killed_is_told_in_one_line(folder, tmp_path):
    line = (*SMALL, f"data.root={folder}", "trainer.epochs=500", "machine.workers=2", "run_dir=run")
    process = begin(tmp_path, *line)
    wait_for(process, lambda: (tmp_path / "run/metrics.csv").exists() and len(children(process)) >= 2)
    os.kill(children(process)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "Traceback" not in errors
    assert errors.count("a process that reads images is gone") == 1
