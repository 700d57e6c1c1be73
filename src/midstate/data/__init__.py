"""Data: each set is a small class with `load()`; what is loaded is plain tensors on one device."""

from midstate.data.cifar import CIFAR
from midstate.data.clutter import Clutter
from midstate.data.digits import Digits
from midstate.data.fake import Fake
from midstate.data.loader import Augmentation, Batches, Images, Split

__all__ = ["CIFAR", "Augmentation", "Batches", "Clutter", "Digits", "Fake", "Images", "Split"]
