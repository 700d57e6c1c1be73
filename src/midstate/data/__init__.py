"""Data sets: small classes with `load()`; images are held in memory as tensors, or read from files when needed."""

from midstate.data.augmentations import Crops, Preparation, TimmAugmentation
from midstate.data.cifar import CIFAR
from midstate.data.clutter import Clutter
from midstate.data.digits import Digits
from midstate.data.fake import Fake
from midstate.data.imagefolder import ImageFolder
from midstate.data.images import Images
from midstate.data.mnist_like import MNIST
from midstate.data.splits import Augmentation, Batches, Split
from midstate.data.stored import Stored, StoredBatches
from midstate.data.timm_data import TimmData

__all__ = [
    "CIFAR",
    "MNIST",
    "Augmentation",
    "Batches",
    "Clutter",
    "Crops",
    "Digits",
    "Fake",
    "ImageFolder",
    "Images",
    "Preparation",
    "Split",
    "Stored",
    "StoredBatches",
    "TimmAugmentation",
    "TimmData",
]  # fmt: skip
