"""Arguments that a method needs and only the user knows: asked for before anything is attached."""

import torch
from torch import Tensor, nn

from midstate.own_loop.presets import Choice
from midstate.sparsity import Method, Sample
from midstate.sparsity.layers import MEASURED
from midstate.sparsity.observe import evaluation

COUNTED = (None, "params", "units")  # budgets that need no image


def check_together(choice: Choice, steps_per_epoch: int | None, trained: bool) -> None:
    """Refuse a method that needs the length of an epoch, or trained weights, if the user gives none.

    Args:
        choice: the method.
        steps_per_epoch: optimizer steps an epoch; None: not known.
        trained: whether the weights are trained, as the user says.

    Raises:
        ValueError: one of the two is needed and missing.
    """
    update, schedule = choice.method.update, choice.schedule
    times = {name: getattr(schedule, name, None) for name in ("start", "stop")}
    times |= {name: getattr(update, name, None) for name in ("every", "until")}
    in_epochs = [f"{name}={time!r}" for name, time in times.items() if isinstance(time, str) and "ep" in time]
    if in_epochs and steps_per_epoch is None:
        raise ValueError(
            f"steps_per_epoch=None: {choice.name} counts in epochs ({', '.join(in_epochs)}); give the optimizer steps "
            "of one, steps_per_epoch=len(loader)"
        )
    tries = "trial" in choice.method.needs
    if not trained and (choice.begins_trained or tries) and times["start"] in (0, "0it", "0ep"):
        raise ValueError(
            f"trained=False: {choice.name} begins with trained weights; load them before prune and say trained=True, "
            "or train dense first: start=0.5"
        )


def images_for(choice: Choice, model: nn.Module, sample: Sample | tuple[Tensor, Tensor] | None) -> Sample | None:
    """The images to measure on, moved to the model's device.

    Args:
        choice: the method.
        model: the model to measure.
        sample: training images (N, C, H, W) and labels (N,); None: none are given.

    Raises:
        ValueError: the method needs images and has none, `sample` is no such pair, or the model gives no logits.
    """
    reasons = _reasons(choice.method)
    if sample is None:
        if reasons:
            raise ValueError(
                f"sample=None: {choice.name} {reasons[0]}; give sample=(images, labels), some hundred training images"
            )
        return None
    images = _as_sample(sample, next(model.parameters()).device)
    _check_logits(model, images)
    if "trial" in choice.method.needs and images.tuning is None:
        return Sample(images.images, images.labels, *choice.method.allocation.split(images))
    return images


def _reasons(method: Method) -> list[str]:
    """Why a method needs images."""
    if method.dense:
        return []
    measured = [name for name in method.needs if name in MEASURED]
    norms = "batchnorm_scale" in method.needs or method.estimator.whole_channels
    coupled = method.pattern.group == "coupled"
    searches = method.allocation.searches  # its penalty counts MACs, whatever the budget
    macs = searches or getattr(method.allocation, "budget", None) not in COUNTED
    return [
        *([f"measures on training images ({', '.join(measured)})"] if measured else []),
        *(["looks for the BatchNorm of each layer with an image"] if norms else []),
        *(["finds coupled channels with an image"] if coupled else []),
        *(["follows channels through the network with an image (permute)"] if method.permutes else []),
        *([f"counts an image's multiply-accumulates (budget={method.allocation.budget!r})"] if macs else []),
    ]


def _as_sample(sample: Sample | tuple[Tensor, Tensor], device: torch.device) -> Sample:
    if isinstance(sample, Sample):
        return sample.to(device)
    pair = isinstance(sample, tuple | list) and len(sample) == 2 and all(isinstance(each, Tensor) for each in sample)
    if not pair or sample[1].dim() != 1 or len(sample[0]) != len(sample[1]) or len(sample[1]) < 2:
        raise ValueError("sample: must be (images, labels), tensors (N, C, H, W) and (N,) of at least two images")
    return Sample(*sample).to(device)


@torch.no_grad()
def _check_logits(model: nn.Module, images: Sample) -> None:
    with evaluation(model):
        logits = model(images.images[:2])
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"sample: the model gives {type(logits).__name__}, and what is measured needs logits; wrap it in a module "
            "whose forward returns them"
        )
