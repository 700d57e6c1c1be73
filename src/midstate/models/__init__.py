"""Models: each entry is a small class with `create(in_channels, num_classes)`."""

from midstate.models.bridges import Timm, Torchvision, classifier_names
from midstate.models.cifar_resnet import CifarResNet
from midstate.models.cifar_vgg import CifarVGG
from midstate.models.narrow import Narrow, narrowed
from midstate.models.start import try_training
from midstate.models.weights import load_weights

__all__ = [
    "CifarResNet", "CifarVGG", "Narrow", "Timm", "Torchvision", "classifier_names",
    "load_weights", "narrowed", "try_training",
]  # fmt: skip
