"""timm's data sets by name, opened on disk."""

import shutil

import pytest
import torch

from midstate.common.errors import RunFailed
from midstate.data import Crops, ImageFolder, TimmData
from midstate.data.timm_data import _Source

SETTINGS = {"augmentation": Crops(), "num_validation": 6, "size": 16, "resize": 18, "workers": 0}


def everything(batches):
    found = list(batches)
    return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])


@pytest.mark.parametrize("name", ["folder", "torch/image_folder"])
def test_a_folder_is_the_same_as_torchvisions(folder, name):
    ours = ImageFolder(root=str(folder), **SETTINGS).load()
    data = TimmData(name=name, root=str(folder), **SETTINGS).load()
    assert (len(data.train), len(data.validation), data.num_classes) == (30, 6, 3)
    for one, other in zip(everything(data.test.batches(4)), everything(ours.test.batches(4)), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(data.test.labels, ours.test.labels)


@pytest.mark.parametrize("name", ["folder", "torch/image_folder"])
def test_labels_mean_the_same_class_in_all_splits(folder, name):
    shutil.copytree(folder / "val", folder / "one")
    shutil.copytree(folder / "train", folder / "alone")
    (folder / "one/red").rename(folder / "one/amber")
    with pytest.raises(ValueError, match=r"validation='one': its classes .*'train': red missing and amber only there$"):
        TimmData(name=name, root=str(folder), validation="one", **SETTINGS).load()
    for place in ("alone", "val"):
        shutil.rmtree(folder / place / "red")
        shutil.rmtree(folder / place / "blue")
    with pytest.raises(ValueError, match="'alone' holds one class, green; two are needed"):
        TimmData(name=name, root=str(folder), train="alone", **SETTINGS).load()


def test_labels_that_only_reading_tells_are_checked(folder, tmp_path):
    for split in ("2021_train", "2021_valid"):
        for number, colour in enumerate(("blue", "green", "red")):
            place = tmp_path / f"plants/{split}/0000{number}_kingdom_phylum_class_order_family_genus_{colour}"
            shutil.copytree(folder / "train" / colour, place)
    settings = {"name": "torch/inat", "root": str(tmp_path / "plants"), **SETTINGS}
    assert len(everything(TimmData(num_classes=3, **settings).load().test.batches(50))[1]) == 36
    with pytest.raises(RunFailed, match=r"an image has label 2; data\.num_classes=2 allows 0 to 1"):
        list(TimmData(num_classes=2, **settings).load().test.batches(50))


def test_images_without_a_file_are_named_by_their_number():
    class Reader:  # as timm's of a table of Hugging Face, whose images may be bytes alone
        def filename(self, index, absolute=False):
            return None

    class Table(list):
        reader, targets = Reader(), [0, 1]

    assert _Source(Table("ab")).name(1) == "image 1"


def test_a_damaged_image_is_not_replaced_silently(folder):
    (folder / "val/red/02.jpg").write_text("no image")
    with pytest.raises(RunFailed, match=r"val/red/02.jpg cannot be read \(it is no image\)"):
        list(TimmData(name="folder", root=str(folder), **SETTINGS).load().test.batches(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tfds/mnist"}, "name='tfds/mnist': is read as a stream"),
        ({"name": "torch/nothing"}, "timm cannot open split 'train' .*nothing"),
        ({"name": "torch/cifar10"}, "timm cannot open split 'train' .*download=true"),
        ({"name": "folder", "root": "nowhere"}, "root='nowhere': no such folder"),
        ({"name": "folder", "train": "trian"}, "train='trian': no such folder in .*images; there are train, val$"),
        ({"name": "torch/folder", "test": "test"}, "test='test': no such folder in .*images; there are train, val$"),
        ({"name": "folder", "test": "train"}, "test='train': 36 of its images are of train='train', too"),
        ({"name": "folder", "validation": "val"}, "test='validation': 15 of its images are of validation='val', too"),
        ({"name": "imagefolder"}, "name='imagefolder': must be folder, or a name such as"),
        ({"name": "other/set"}, "name='other/set': must be folder, or a name such as"),
        ({"name": "torch/cifar10", "train": "trian"}, "train='trian': must be one of train, training"),
        ({"name": "TORCH/MNIST", "test": "tset"}, "test='tset': must be one of test, validation, val"),
        ({"name": "torch/mnist", "validation": "val"}, "validation='val': must be null"),
        ({"name": "torch/imagenet", "validation": "val"}, "splits train, val, validation: .* must be different"),
        ({"name": "folder", "num_classes": 2}, "labels from 0 to 2; 2 classes"),
    ],
)
def test_what_cannot_be_opened_is_said(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        TimmData(**{"root": str(folder), **SETTINGS, **settings}).load()
