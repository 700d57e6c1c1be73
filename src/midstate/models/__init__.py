"""Models: each entry is a small class with `create(in_channels, num_classes)`."""

from midstate.models.bridges import Timm, Torchvision, classifier_name
from midstate.models.cifar_resnet import CifarResNet

__all__ = ["CifarResNet", "Timm", "Torchvision", "classifier_name"]
