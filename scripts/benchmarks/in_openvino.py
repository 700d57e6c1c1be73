"""OpenVINO: fp32, and int8 linear layers whose zeros are not stored."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.loaded import Loaded, linear_sizes, not_installed, onnx_of
from benchmarks.resident import Pass
from midstate.formats.onnx import INPUT

MULTIPLE = 64  # both sizes of a weight must be multiples of this
RATE = 0.5  # share of zeros from which on a layer is stored without them


def in_fp32(model: nn.Module, images: Tensor) -> Loaded:
    """Load the network unchanged."""
    content = onnx_of(model, images)
    return Loaded(lambda batch: _pass(_compiled(content, (batch, *images.shape[1:]))), len(content))


@cache
def _core() -> Any:
    """Return one core for the whole process.

    Its CPU plugin sets the stack that signals are handled on, and destroying several of them in the order in which
    they were made leaves the first one's freed stack in place: the next signal would end the process.
    """
    import openvino

    return openvino.Core()


def _compiled(content: bytes, shape: tuple[int, ...], **settings: Any) -> Any:
    """Compile for low latency; what is fp32 stays so on processors with bf16, too."""
    core = _core()
    network = core.read_model(content)
    network.reshape(list(shape))
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1}
    precision = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(network, "CPU", {**threads, **precision, **settings})


def _pass(compiled: Any) -> Pass:
    return lambda images: torch.from_numpy(compiled([images.numpy()], share_inputs=True)[0])


def not_decompressed(model: nn.Module) -> str:
    """Tell why no weights can be decompressed, by the conditions on OpenVINO's page on CPUs; empty if they can."""
    sizes = linear_sizes(model)
    if not sizes:
        return "does not apply: only int8 linear layers are decompressed, and the classifier is the only linear layer"
    if not any(out % MULTIPLE == 0 and into % MULTIPLE == 0 for out, into in sizes):
        return f"does not apply: no linear layer has outputs and inputs that are multiples of {MULTIPLE}"
    if not has_amx():
        return "does not apply: this processor has no AMX instructions"
    return not_installed("openvino")


def has_amx() -> bool:
    """Tell whether the processor multiplies tiles of int8."""
    try:
        return "amx_int8" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def in_int8(model: nn.Module, images: Tensor) -> Loaded:
    """Load with int8 linear layers; those with enough zeros are stored without them and decompressed when used."""
    content, shape = quantized(onnx_of(model, images), images), images.shape[1:]

    def compiled(batch: int) -> Any:
        return _compiled(content, (batch, *shape), CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE=RATE)

    kinds = [_executed(each) for each in compiled(1).get_runtime_model().get_ops()]
    linear = [how for what, how in kinds if what == "FullyConnected"]
    note = f"{sum('sparse' in how for how in linear)} of {len(linear)} linear layers are decompressed"
    return Loaded(lambda batch: _pass(compiled(batch)), len(content), note)


def _executed(operation: Any) -> tuple[str, str]:
    """Return the type of an operation, and the kernel that runs it."""
    info = operation.get_rt_info()
    what, how = (info[key] for key in ("layerType", "primitiveType"))
    return str(getattr(what, "value", what)), str(getattr(how, "value", how))


def quantized(content: bytes, images: Tensor) -> bytes:
    """Turn the linear layers of an ONNX network into int8, a scale a filter; ranges are calibrated on these images."""
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
            extra_options={"MatMulConstBOnly": True},  # not attention's products, which have no weights
        )
        return Path(place, "int8.onnx").read_bytes()
