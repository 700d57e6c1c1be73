"""Modules that only extracted networks have. They have no parameters; constants are buffers."""

from torch import Tensor, nn
from torch.nn import functional as F


class Select(nn.Module):
    """Takes some channels, in a given order.

    Args:
        dim: of the channels.
        taken: (K,) positions.
    """

    def __init__(self, dim: int, taken: Tensor) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("taken", taken)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, ...) to (N, K, ...)."""
        return features.index_select(self.dim, self.taken)


class Spread(nn.Module):
    """Puts channels to their places among constants.

    Args:
        dim: of the channels.
        places: (C,) positions of the channels in the result.
        constants: (1, K, ...), broadcastable to the result; the values at `places` are ignored.
    """

    def __init__(self, dim: int, places: Tensor, constants: Tensor) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("places", places)
        self.register_buffer("constants", constants)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, ...) to (N, K, ...)."""
        shape = list(features.shape)
        shape[self.dim] = self.constants.shape[self.dim]
        return self.constants.expand(shape).index_copy(self.dim, self.places, features)


class Constants(nn.Module):
    """A tensor that no longer depends on the image.

    Args:
        constants: (1, ...).
    """

    def __init__(self, constants: Tensor) -> None:
        super().__init__()
        self.register_buffer("constants", constants)

    def forward(self, images: Tensor) -> Tensor:
        """The constants once for each image, (N, ...)."""
        return self.constants.expand(len(images), *self.constants.shape[1:])


class Shift(nn.Module):
    """Adds the contribution of a layer's constant inputs, in place: nothing else reads the layer's output.

    Args:
        constants: (1, ...), broadcastable to the layer's output.
    """

    def __init__(self, constants: Tensor) -> None:
        super().__init__()
        self.register_buffer("constants", constants)

    def forward(self, features: Tensor) -> Tensor:
        """The layer's output, shifted."""
        return features.add_(self.constants)


class BorderShift(nn.Module):
    """Adds, in place, the contribution of a convolution's constant channels, without the zero padding at the borders.

    Args:
        conv: the convolution; its stride, padding and dilation are used.
        kernel: (O, 1, *K): the convolution's weights times the constants, summed over the constant channels.
    """

    def __init__(self, conv: nn.Module, kernel: Tensor) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.register_buffer("kernel", kernel)

    def forward(self, features: Tensor, inputs: Tensor) -> Tensor:
        """The convolution's output, shifted; `inputs` is what the convolution read, for its size."""
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.kernel.dim() - 3]
        ones = inputs.new_ones((1, 1, *inputs.shape[2:]))
        return features.add_(convolve(ones, self.kernel, None, self.stride, self.padding, self.dilation))


class FixedSize(nn.Module):
    """Refuses images of another size: some constants of the network were computed for one size only.

    Args:
        shape: of one image (C, H, W).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, images: Tensor) -> Tensor:
        """The images, (N, C, H, W).

        Raises:
            ValueError: the images have another shape.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"images of {tuple(images.shape[1:])}: this network was extracted for images of {self.shape}; extract "
                "it for the other size"
            )
        return images
