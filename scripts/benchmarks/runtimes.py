"""Runtimes that `infer` compares: how each loads a network, and for which networks it has nothing to offer."""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.resident import Pass
from midstate.formats import semi_structured
from midstate.formats.onnx import INPUT, as_onnx, check_installed
from midstate.models import classifier_names
from midstate.sparsity import weight_layers

MULTIPLE = 64  # of which OpenVINO wants both sizes of a weight that it decompresses
RATE = 0.5  # share of zeros from which on it does
ZEROS = "zeros are multiplied like any other number"


@dataclass(frozen=True)
class Loaded:
    """A network as a runtime has it.

    Args:
        load: makes a pass for batches of a size.
        bytes: of its weights, as they are stored.
        note: what the runtime did with them.
    """

    load: Callable[[int], Pass]
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Runtime:
    """Something that runs networks.

    Args:
        name: in the table.
        loaded: a network and some images to a `Loaded`; a ValueError says why not.
        missing: why it runs no form of a network, or nothing.
        zeros: what it makes of zeros; nothing where `Loaded.note` tells.
        tolerance: of outputs, over the largest; None: its arithmetic is another.
        device: of images.
        dtype: of images.
    """

    name: str
    loaded: Callable[[nn.Module, Tensor], Loaded]
    missing: Callable[[nn.Module], str] = lambda model: ""
    zeros: str = ZEROS
    tolerance: float | None = 1e-4
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


def runtimes() -> list[Runtime]:
    """List what is compared here."""
    found = [
        Runtime("torch", lambda model, images: Loaded(lambda batch: model, _bytes(model))),
        Runtime("onnxruntime", _in_onnxruntime, lambda model: _not_installed()),
        Runtime("OpenVINO", _in_openvino, lambda model: _not_installed("openvino")),
        Runtime("OpenVINO, int8, sparse weights", _in_openvino_int8, _not_decompressed, "", None),
    ]
    if torch.cuda.is_available():
        gpu: Any = {"tolerance": 2e-2, "device": "cuda", "dtype": torch.float16}
        found += [
            Runtime("GPU, fp16", _on_gpu, **gpu),
            Runtime("GPU, fp16, compiled", lambda model, images: _on_gpu(model, images, torch.compile), **gpu),
            Runtime("GPU, fp16, semi-structured", _semi_structured, _not_semi_structured, "", **gpu),
        ]
    return found


def _bytes(model: nn.Module) -> int:
    return sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))


def _not_installed(*more: str) -> str:
    try:
        check_installed()
    except ValueError as error:
        return f"not measured: {error}"
    names = [name for name in more if find_spec(name) is None]
    return f"not measured: needs {', '.join(names)}: pip install 'midstate[bench]'" if names else ""


@lru_cache(maxsize=8)
def _onnx(model: nn.Module, images: Tensor) -> bytes:
    """The same file for all runtimes that read it."""
    return as_onnx(model, images)[0]


def _in_onnxruntime(model: nn.Module, images: Tensor) -> Loaded:
    import onnxruntime

    content = _onnx(model, images)

    def load(batch: int) -> Pass:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # or it would slow whose turn is next
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

    return Loaded(load, len(content))


def _in_openvino(model: nn.Module, images: Tensor) -> Loaded:
    content = _onnx(model, images)
    return Loaded(lambda batch: _pass(_compiled(content, (batch, *images.shape[1:]))), len(content))


def _compiled(content: bytes, shape: tuple[int, ...], **settings: Any) -> Any:
    """Compile for one latency, in fp32 where the network is, also on processors with bf16."""
    import openvino

    core = openvino.Core()
    network = core.read_model(content)
    network.reshape(list(shape))
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    precision = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(network, "CPU", {**threads, **precision, **settings})


def _pass(compiled: Any) -> Pass:
    return lambda images: torch.from_numpy(compiled([images.numpy()], share_inputs=True)[0])


def _not_decompressed(model: nn.Module) -> str:
    """OpenVINO's conditions, as its page on CPUs lists them."""
    sizes = [layer.weight.shape for layer in _linear(model) if layer.name not in classifier_names(model)]
    if not sizes:
        return "does not apply: only int8 linear layers are decompressed, and the classifier is the only linear layer"
    if not any(out % MULTIPLE == 0 and into % MULTIPLE == 0 for out, into in sizes):
        return f"does not apply: no linear layer has outputs and inputs that are multiples of {MULTIPLE}"
    if not has_amx():
        return "does not apply: this processor has no AMX instructions"
    return _not_installed("openvino")


def _linear(model: nn.Module) -> list[Any]:
    return [layer for layer in weight_layers(model) if isinstance(layer.module, nn.Linear)]


def has_amx() -> bool:
    """Tell whether the processor multiplies tiles of int8."""
    try:
        return "amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _in_openvino_int8(model: nn.Module, images: Tensor) -> Loaded:
    content, shape = quantized(_onnx(model, images), images), images.shape[1:]

    def compiled(batch: int) -> Any:
        return _compiled(content, (batch, *shape), CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE=RATE)

    kinds = [_executed(each) for each in compiled(1).get_runtime_model().get_ops()]
    linear = [how for what, how in kinds if what == "FullyConnected"]
    note = f"{sum('sparse' in how for how in linear)} of {len(linear)} linear layers are decompressed"
    return Loaded(lambda batch: _pass(compiled(batch)), len(content), note)


def _executed(operation: Any) -> tuple[str, str]:
    """What an operation is, and the kernel that runs it."""
    info = operation.get_rt_info()
    what, how = (info[key] for key in ("layerType", "primitiveType"))
    return str(getattr(what, "value", what)), str(getattr(how, "value", how))


def quantized(content: bytes, images: Tensor) -> bytes:
    """The linear layers of an ONNX network in int8, a scale a filter, zeros still zeros; ranges are of these images."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{INPUT: images.numpy()}]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as place:
        (source := Path(place, "fp32.onnx")).write_bytes(content)
        quantization.quantize_static(
            source,
            Path(place, "int8.onnx"),
            Images(),
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},  # the products of attention have no weights
        )
        return Path(place, "int8.onnx").read_bytes()


def _on_gpu(model: nn.Module, images: Tensor, wrap: Callable[[nn.Module], Any] = lambda model: model) -> Loaded:
    half = deepcopy(model).to("cuda", torch.float16)
    return Loaded(lambda batch: wrap(half), _bytes(half))


def _not_semi_structured(model: nn.Module) -> str:
    if not semi_structured.has_kernels():
        return "does not apply: this GPU has no sparse tensor cores"
    if not [layer for layer in _linear(model) if layer.name not in classifier_names(model)]:
        return "does not apply: there are kernels for linear layers only, and the classifier is the only one"
    return ""


def _semi_structured(model: nn.Module, images: Tensor) -> Loaded:
    half = deepcopy(model).to("cuda", torch.float16)
    whole, weights = _bytes(half), semi_structured.linear_layers(model)[0]
    for name in weights:
        layer = half.get_submodule(name.removesuffix(".weight"))
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(layer.weight), requires_grad=False)
    saved = sum(weight.numel() for weight in weights.values()) * 2 * 7 // 16  # values 1/2, metadata 1/16
    return Loaded(lambda batch: half, whole - saved, f"{len(weights)} linear layers are semi-structured")
