"""ONNX: written by torch.onnx; its outputs in onnxruntime are compared with those of the network."""

import warnings
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import torch
from torch import Tensor, nn

from midstate.common.errors import first_line

NEEDED = ("onnx", "onnxscript", "onnxruntime")  # the extra `export` brings them
TOLERANCE = 1e-4  # largest accepted difference, relative to max(1, largest |output|)
INPUT, OUTPUT, BATCH = "images", "logits", "batch"


def check_installed() -> None:
    """Raise ValueError where a library is not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"needs {', '.join(missing)}: pip install onnx onnxscript onnxruntime, or 'midstate[export]'")


@torch.no_grad()
def as_onnx(model: nn.Module, images: Tensor) -> tuple[bytes, int, float]:
    """Export a network for batches of any number of images.

    Args:
        model: the network, left in evaluation mode.
        images: (N, C, H, W), for the comparison.

    Returns:
        The file's content, its opset, and the largest difference to torch's outputs.

    Raises:
        ValueError: the network cannot be exported, or its outputs in onnxruntime differ.
    """
    two = images[:2] if len(images) > 1 else images.expand(2, -1, -1, -1)  # one image would fix the batch size
    with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()):
        try:
            program = torch.onnx.export(
                model.eval(),
                (two,),
                dynamo=True,
                dynamic_shapes=({0: BATCH},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            content = program.model_proto.SerializeToString()
        except Exception as error:  # a network that cannot be converted, or that exceeds 2 GB
            raise ValueError(f"ONNX cannot hold this network ({first_line(error)})") from error
    difference = max(_difference(model, content, images[:size]) for size in {1, 3, len(images)})
    opset = next(each.version for each in program.model_proto.opset_import if not each.domain)
    return content, opset, difference


def _difference(model: nn.Module, content: bytes, images: Tensor) -> float:
    """Largest difference of outputs, onnxruntime to torch; ValueError above the tolerance."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found, expected = torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0]), model(images)
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise ValueError(f"in onnxruntime its outputs differ by {difference:.2g}, where they reach {largest:.3g}")
    return difference
