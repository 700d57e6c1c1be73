"""Initial weights of a network from a file, and messages where they do not fit."""

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from midstate.common.errors import first_line
from midstate.models.bridges import classifier_names
from midstate.models.checkpoints import find_weights, read_checkpoint, some
from midstate.quantization import drop_input_quantisers, load_input_quantisers

log = logging.getLogger(__name__)


def load_weights(model: nn.Module, path: Path, fresh_classifier: bool = True) -> None:
    """Load a file's weights into a plain model: `final.pt`, a plain state dict, or another program's checkpoint.

    See `checkpoints.find_weights` for the tensors that are used, and for masked weights.

    Tensors of parts that were removed from the model, and are None in it, are ignored.

    Args:
        model: plain, without masks.
        path: path of the file.
        fresh_classifier: whether to keep the model's classifier, with a warning, if the file has none or one of
            another number of classes; else such a file is refused.

    Raises:
        ValueError: the file cannot be read as weights, or these do not fit the model or are not finite.
    """
    shown, own = f"checkpoint={str(path)!r}", model.state_dict()
    try:
        state = find_weights(read_checkpoint(path), own)
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from error
    except TypeError as error:
        raise ValueError(f"{shown}: does not fit this model ({error})") from error
    state = {name: value for name, value in state.items() if getattr(model, name.partition(".")[0], "") is not None}
    other = _of_other_classes(model, state, own) if fresh_classifier else []
    try:
        load_input_quantisers(model, state)
        model.load_state_dict({**state, **{name: own[name] for name in other}})
    except (RuntimeError, AttributeError) as error:  # of another network: a tensor, or a layer, does not fit
        drop_input_quantisers(model)
        told = _difference(state, own) or f" ({first_line(error)})"
        raise ValueError(f"{shown}: does not fit this model{told}") from error
    if infinite := [name for name, value in model.state_dict().items() if not value.isfinite().all()]:
        raise ValueError(f"{shown}: {infinite[0]} is not finite; training from it would diverge")
    if other:
        sizes = sorted({state[name].shape[0] for name in other if name in state})
        has = f"is of {' or '.join(map(str, sizes))} classes" if sizes else "has no classifier"
        log.warning(
            f"warning: {shown}: {has}, and the data have {own[other[0]].shape[0]}: {some(other)} begin anew, as first "
            "weights are drawn"
        )


def _of_other_classes(model: nn.Module, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names of the classifier's tensors, for layers that the file lacks or has with another number of classes."""
    anew: list[str] = []
    for layer in classifier_names(model):
        names = [name for name in own if name.rpartition(".")[0] == layer]
        there = [name for name in names if name in state]
        shapes = [(state[name].shape, own[name].shape) for name in there]
        others = shapes and all(ours[1:] == theirs[1:] and ours[0] != theirs[0] for theirs, ours in shapes)
        anew += names if not there or (len(there) == len(names) and others) else []
    return anew


def _difference(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Differences in names and shapes between file and model, in at most four lines; empty if they agree."""
    more, missing = [name for name in state if name not in own], [name for name in own if name not in state]
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    if not (more or missing or shapes):
        return ""
    fit = len(own) - len(missing) - len(shapes)
    lines = [f": of the {len(own)} tensors it wants, {fit} are in the file, which has {len(state)}"]
    for names, what, where in ((missing, "only the model has", own), (more, "only the file has", state)):
        if names:
            lines.append(f"  {what} {len(names)}: {some(f'{name} {_size(where[name])}' for name in names)}")
    if shapes:
        pairs = (f"{name} {_size(state[name])} in the file, {_size(own[name])} in the model" for name in shapes)
        lines.append(f"  of another shape {len(shapes)}: {some(pairs)}")
    return "\n".join(lines)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
