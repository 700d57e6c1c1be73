"""Parts that runtimes share: a loaded network, its ONNX file, the check of what is installed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from benchmarks.resident import Pass
from midstate.formats.onnx import as_onnx, check_installed
from midstate.models import classifier_names
from midstate.sparsity import weight_layers

_FILES: WeakKeyDictionary[nn.Module, bytes] = WeakKeyDictionary()


@dataclass(frozen=True)
class Loaded:
    """A network that a runtime has loaded.

    Args:
        load: from a batch size to a function that makes a forward pass.
        bytes: size of its weights, as they are stored.
        note: what the runtime did with the weights, for the table.
    """

    load: Callable[[int], Pass]
    bytes: int
    note: str = ""


def not_installed(*more: str) -> str:
    """Tell which of the packages for ONNX, and of `more`, are not installed; empty if all are."""
    try:
        check_installed()
    except ValueError as error:
        return f"not measured: {error}"
    names = [name for name in more if find_spec(name) is None]
    return f"not measured: needs {', '.join(names)}: pip install 'midstate[bench]'" if names else ""


def size_in_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))


def onnx_of(model: nn.Module, images: Tensor) -> bytes:
    """Return a network as an ONNX file; it is made once for each network, for all runtimes."""
    if model not in _FILES:
        _FILES[model] = as_onnx(model, images)[0]
    return _FILES[model]


def linear_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Return outputs and inputs of each linear layer but the classifier."""
    heads = classifier_names(model)
    layers = [layer for layer in weight_layers(model) if layer.name not in heads]
    return [tuple(layer.weight.shape) for layer in layers if isinstance(layer.module, nn.Linear)]
