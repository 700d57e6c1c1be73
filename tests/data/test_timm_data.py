"""timm's data sets by name, opened on disk."""

import pytest
import torch

from midstate.config import RunFailed
from midstate.data import Crops, ImageFolder, TimmData

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
        ({"name": "folder", "root": "nowhere"}, "root='nowhere': timm cannot open"),
        ({"name": "folder", "num_classes": 2}, "labels from 0 to 2; 2 classes"),
    ],
)
def test_what_cannot_be_opened_is_said(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        TimmData(**{"root": str(folder), **SETTINGS, **settings}).load()
