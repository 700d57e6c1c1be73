"""The formats of an export: each turns a finished run's network into files, as bytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from midstate.compaction.extracting import extract
from midstate.formats import packed, plain, semi_structured
from midstate.formats.onnx import as_onnx
from midstate.quantization import without_input_quantisers
from midstate.runs.extract import exported

FASTER = "on a GPU with sparse tensor cores (compute capability 8.0 or more) these layers can be faster"
NOT_FASTER = (
    "there are no kernels for it here, so nothing runs faster on this machine: the file is for a GPU with sparse "
    "tensor cores (compute capability 8.0 or more)"
)


@dataclass(frozen=True)
class Finished:
    """A finished run's network, some test images, and how the network was made.

    Args:
        directory: the run's.
        model: a plain module in evaluation mode.
        images: some test images (N, C, H, W).
        call: Python expression that creates the network for these weights.
        of_library: whether that network is an unmodified one of torchvision or timm.
        recipe: written into the files' metadata.
    """

    directory: Path
    model: nn.Module
    images: Tensor
    call: str
    of_library: bool
    recipe: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of one image."""
        return tuple(self.images.shape[1:])


@dataclass(frozen=True)
class Exported:
    """Content of the files by name (the last is the requested format), and lines to print about them."""

    files: dict[str, bytes]
    told: list[str]


def _plain_state(run: Finished) -> dict[str, Tensor]:
    """The weights alone.

    Raises:
        ValueError: layers round their inputs, so that the weights alone are not the network.
    """
    state = run.model.state_dict()
    with without_input_quantisers(run.model):
        if more := [name for name in state if name not in run.model.state_dict()]:
            raise ValueError(
                f"holds weights alone, and this network rounds inputs of its layers ({more[0]}); "
                "format=onnx may hold it"
            )
    return state


def _loads_into(run: Finished) -> str:
    what = (
        "loads, strictly, into the unmodified" if run.of_library else "loads into this project's network, no library's:"
    )
    return f"{what} {run.call}"


def _dense(run: Finished) -> Exported:
    return Exported({"model.pt": plain.as_torch(_plain_state(run), run.recipe)}, [_loads_into(run)])


def _safetensors(run: Finished) -> Exported:
    return Exported({"model.safetensors": plain.as_safetensors(_plain_state(run), run.recipe)}, [_loads_into(run)])


def _small(run: Finished) -> Exported:
    network = extract(run.model, run.shape)
    before, after = (sum(parameter.numel() for parameter in each.parameters()) for each in (run.model, network))
    files = {
        "small.safetensors": plain.as_safetensors(network.state_dict(), run.recipe),
        "small.pt2": exported(run.directory, network, run.images),
    }
    told = (
        f"{after:,} of {before:,} parameters are left; small.safetensors has the weights that small.pt2 computes with"
    )
    return Exported(files, [told])


def _onnx(run: Finished, extracted: bool = False) -> Exported:
    model = extract(run.model, run.shape) if extracted else run.model
    content, opset, difference = as_onnx(model, run.images)
    told = f"opset {opset}; in onnxruntime {len(run.images)} images' outputs differ from torch's by {difference:.2g}"
    return Exported({f"{'small' if extracted else 'model'}.onnx": content}, [told])


def _semi_structured(run: Finished, dtype: str = "bf16") -> Exported:
    state = _plain_state(run)
    weights, others = semi_structured.linear_layers(run.model)
    if not weights:
        why = f"outputs and inputs of {', '.join(others)} are no multiples of {semi_structured.ROWS} and "
        why += str(semi_structured.COLUMNS)
        raise ValueError(f"there is no linear layer to convert: {why if others else 'none of them obeys 2:4'}")
    tensors = semi_structured.converted(weights, semi_structured.DTYPES[dtype])
    rest = {name: tensor for name, tensor in state.items() if name not in weights}
    content = plain.as_safetensors({**rest, **tensors}, run.recipe, dtype=dtype)
    told = [
        f"{len(weights)} linear layers as 2:4 values ({dtype}) and metadata, read back to the same bits: "
        f"{plain.size_in_bytes(tensors):,} bytes, dense {plain.size_in_bytes(weights):,}; the other "
        f"{len(rest)} tensors are as they were",
        *([f"left dense, for their sizes: {', '.join(others)}"] if others else []),
        FASTER if semi_structured.has_kernels() else NOT_FASTER,
    ]
    return Exported({"semi_structured.safetensors": content}, told)


def _packed(run: Finished) -> Exported:
    state = _plain_state(run)
    tensors = packed.packed(state)
    if len(tensors) == len(state):
        raise ValueError("no tensor has zeros enough to become smaller")
    back = packed.unpacked(tensors)
    if not all(tensor.equal(state[name]) for name, tensor in back.items()) or back.keys() != state.keys():
        raise ValueError("is not the same when it is read back; this is a defect, please report it")
    sizes = (plain.size_in_bytes(state), packed.least_bytes(state, tensors), plain.size_in_bytes(tensors))
    told = "bytes: {:,} dense, {:,} in theory (non-zeros and a bit a weight), {:,} packed; read back to the same bits"
    return Exported({"packed.safetensors": plain.as_safetensors(tensors, run.recipe)}, [told.format(*sizes)])


FORMATS = {
    "dense": _dense,
    "safetensors": _safetensors,
    "small": _small,
    "onnx": _onnx,
    "semi_structured": _semi_structured,
    "packed": _packed,
}
