"""Runtimes that `infer` compares, and for which networks they have nothing to offer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import in_openvino, on_gpu
from benchmarks.loaded import Loaded, not_installed, onnx_of, size_in_bytes
from benchmarks.resident import Pass
from midstate.formats.onnx import INPUT

ZEROS = "zeros are multiplied like any other number"


@dataclass(frozen=True)
class Runtime:
    """Something that runs networks.

    Args:
        name: as the table has it.
        loaded: from a network and some images to a `Loaded`; raises ValueError with the reason if it cannot.
        missing: tells why it runs no form of a network; empty if it does.
        zeros: how it treats zeros; empty where `Loaded.note` tells.
        tolerance: largest difference of outputs, over the largest output; None: any, its arithmetic is another.
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
    """List the runtimes to compare; those of a GPU only where there is one."""
    found = [
        Runtime("torch", lambda model, images: Loaded(lambda batch: model, size_in_bytes(model))),
        Runtime("onnxruntime", _in_onnxruntime, lambda model: not_installed()),
        Runtime("OpenVINO", in_openvino.in_fp32, lambda model: not_installed("openvino")),
        Runtime("OpenVINO, int8, sparse weights", in_openvino.in_int8, in_openvino.not_decompressed, "", None),
    ]
    if torch.cuda.is_available():
        gpu: Any = {"tolerance": 2e-2, "device": on_gpu.DEVICE, "dtype": torch.float16}
        found += [
            Runtime("GPU, fp16", on_gpu.in_fp16, **gpu),
            Runtime("GPU, fp16, compiled", on_gpu.compiled, **gpu),
            Runtime("GPU, fp16, semi-structured", on_gpu.in_semi_structured, on_gpu.not_semi_structured, "", **gpu),
        ]
    return found


def _in_onnxruntime(model: nn.Module, images: Tensor) -> Loaded:
    import onnxruntime

    content = onnx_of(model, images)

    def load(batch: int) -> Pass:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # else its threads slow the next one
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])

    return Loaded(load, len(content))
