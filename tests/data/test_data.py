import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator

from midstate.data import CIFAR, Augmentation, Batches, Clutter, Crops, Digits, Fake, Images, Split, TimmData
from midstate.data.sources import _digits, source_splits

NONE = Augmentation(0, False)


def test_source_digits_are_disjoint_and_complete():
    parts = source_splits(0)
    assert sum(len(labels) for _, labels in parts) == 1797
    assert [len(labels) for _, labels in parts] == [1079, 269, 449]
    seen = [{image.numpy().tobytes() for image in images} for images, _ in parts]
    # scikit-learn's set has no two equal images, so equal bytes would mean a shared source.
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert all(labels.unique().numel() == 10 for _, labels in parts)


def test_the_digits_are_those_of_scikit_learn_in_its_order():
    bunch = load_digits()
    images, labels = torch.from_numpy(_digits()).split([64, 1], dim=1)
    assert images.equal(torch.tensor(bunch.data, dtype=torch.float32))
    assert labels.flatten().tolist() == bunch.target.tolist()


def test_digits_do_not_take_the_time_to_import_scikit_learn():
    script = "import sys; from midstate.data.sources import _digits; _digits(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_clutter_is_the_same_every_time_and_places_each_digit_as_often_as_asked():
    first, again = Clutter(NONE).load(), Clutter(NONE).load()
    assert torch.equal(first.train.images, again.train.images)
    assert (len(first.train), len(first.validation), len(first.test)) == (4 * 1079, 8 * 269, 8 * 449)
    assert first.shape == (1, 16, 16)
    counts = torch.bincount(source_splits(0)[2][1]) * 8
    assert torch.equal(torch.bincount(first.test.labels), counts)
    assert not torch.equal(Clutter(NONE, seed=1).load().train.images, first.train.images)


def test_clutter_without_clutter_shows_the_digit_itself():
    data = Clutter(NONE, num_fragments=0, noise=0.0, size=8, train_placements=1).load()
    images, labels = source_splits(0)[0]
    restored = data.train.images * images.std() + images.mean()
    for image, label in zip(restored[:50, 0], data.train.labels[:50], strict=True):
        nearest = min(range(len(images)), key=lambda i: float((images[i] - image).abs().sum()))
        assert torch.allclose(images[nearest], image, atol=1e-5)
        assert labels[nearest] == label


def test_fragments_come_from_the_digits_of_the_split():
    ink = torch.full((20, 8, 8), 0.7)
    split = Clutter(NONE, noise=0.0)._place(ink, torch.zeros(20, dtype=torch.int64), 3, Generator().manual_seed(0))
    assert split.images.unique().tolist() == [0, pytest.approx(0.7)]
    assert (split.images > 0).sum((1, 2, 3)).max() > 64  # fragments beside the digit


def test_colour_and_size_are_parameters():
    data = Clutter(NONE, size=32, channels=3).load()
    assert data.shape == (3, 32, 32)
    assert not torch.equal(data.train.images[:, 0], data.train.images[:, 1])


def test_training_data_is_normalised():
    for data in (Clutter(NONE).load(), Digits(NONE).load()):
        assert data.train.images.mean().abs() < 1e-3
        assert (data.train.images.std() - 1).abs() < 1e-3


def test_augmentation_shifts_by_up_to_the_padding():
    image = torch.zeros(500, 1, 5, 5)
    image[:, :, 2, 2] = 1
    moved = Augmentation(2, False)(image, Generator().manual_seed(0))
    places = {tuple(place) for place in moved[:, 0].nonzero()[:, 1:].tolist()}
    assert places == {(row, column) for row in range(5) for column in range(5)}
    assert (moved.flatten(1).sum(1) == 1).all()


def test_flip_mirrors_about_half_of_the_images():
    image = torch.arange(3.0).expand(400, 1, 1, 3)
    flipped = Augmentation(0, True)(image, Generator().manual_seed(0))[:, 0, 0, 0] == 2
    assert 150 < int(flipped.sum()) < 250


def test_no_augmentation_changes_nothing():
    image = torch.randn(4, 3, 8, 8)
    assert torch.equal(NONE(image, Generator()), image)


def test_batches_are_a_pure_function_of_seed_epoch_and_step():
    split = Split(torch.randn(50, 1, 4, 4), torch.arange(50))
    batches = Batches(split, 8, Augmentation(1, True), seed=3)
    assert batches.steps_per_epoch == 6
    whole = list(batches.epoch(2))
    resumed = list(Batches(split, 8, Augmentation(1, True), seed=3).epoch(2, first_step=4))
    for (images, labels), (again, labels_again) in zip(whole[4:], resumed, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
    seen = torch.cat([labels for _, labels in whole])
    assert seen.unique().numel() == 48
    assert not torch.equal(seen, torch.cat([labels for _, labels in batches.epoch(3)]))
    assert len(list(Batches(split, 8, NONE, 0, max_steps=2).epoch(0))) == 2
    assert Batches(split, 64, NONE, 0).steps_per_epoch == 1  # a set smaller than a batch is one batch


def test_fake_has_the_shape_asked_for():
    data = Fake(NONE, size=9, channels=2, num_classes=7, num_train=5, num_eval=3).load()
    assert data.shape == (2, 9, 9)
    assert (len(data.train), len(data.validation), len(data.test), data.num_classes) == (5, 3, 3, 7)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Clutter(NONE, size=7), "size=7"),
        (lambda: Clutter(NONE, noise=-1), "noise=-1"),
        (lambda: Clutter(NONE, fragment_size=9), "fragment_size=9"),
        (lambda: Fake(NONE, num_classes=1), "num_classes=1"),
        (lambda: Augmentation(-1, False), "crop_padding=-1"),
        (lambda: CIFAR(NONE, 20, "data"), "num_classes=20"),
    ],
)
def test_bad_settings_are_refused(make, field):
    with pytest.raises(ValueError, match=field):
        make()


def write_cifar10(folder: Path, per_file: int) -> None:
    """Write files of CIFAR-10's own format, with pixels that count up."""
    folder = folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for index, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels = (torch.arange(per_file * 3072) * (index + 1) % 256).to(torch.uint8).view(per_file, 3072).numpy()
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(per_file)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))


@pytest.mark.parametrize(
    ("num_images", "labels", "classes", "message"),
    [
        (2, [0, 3], 3, "the train split has labels from 0 to 3; 3 classes are 0 to 2"),
        (2, [-1, 1], 3, "labels from -1 to 1"),
        (3, [0, 1], 3, "3 images and 2 labels"),
        (0, [], 3, "0 images and 0 labels"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(num_images, labels, classes, message):
    good = Split(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    bad = Split(torch.zeros(num_images, 1, 4, 4), torch.tensor(labels, dtype=torch.long))
    with pytest.raises(ValueError, match=message):
        Images(bad, good, good, classes)
    with pytest.raises(ValueError, match="validation split's images"):
        Images(good, Split(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])), good, 3)


@pytest.mark.parametrize("name", ["torch/cifar10", "torch/mnist", None])
def test_a_refused_download_leaves_nothing(tmp_path, monkeypatch, name):
    for kind in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(kind, "http://127.0.0.1:1")  # where nobody answers
    (tmp_path / "there").mkdir()
    for root in ("new/data", "there"):
        place = str(tmp_path / root)
        timms = TimmData(augmentation=Crops(), name=name or "folder", root=place, download=True)
        with pytest.raises(ValueError, match=r"could not be fetched|cannot open"):
            (timms if name else CIFAR(NONE, 10, place)).load()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["there"]


def test_the_home_folder_is_one_of_cifars(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cifar10(tmp_path / "sets", 20)
    with pytest.raises(ValueError, match="damaged"):
        CIFAR(NONE, 10, "~/sets", download=False).load()


def test_cifar_missing_or_damaged_is_said_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"root='.*nowhere': no such folder.*data\.download=true"):
        CIFAR(NONE, 10, str(tmp_path / "nowhere"), download=False).load()
    write_cifar10(tmp_path, 20)  # not the published files, as their checksums tell
    with pytest.raises(ValueError, match=r"missing or damaged there, and data\.download=false; put"):
        CIFAR(NONE, 10, str(tmp_path), download=False).load()
