"""The modules that an extracted network has and its original had not. None has parameters; constants are buffers."""

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
        places: (C,) where they go.
        constants: (1, K, ...), broadcastable to the result; what stands at `places` does not matter.
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
    """Adds what a layer made of the constants that it read; in place, for nothing else reads the layer's output.

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
    """Adds, in place, what a convolution made of constant channels: less at the borders, where it also read zeros.

    Args:
        conv: the convolution whose padding and stride count.
        kernel: (O, 1, *K): its weights times the constants, summed over the constant channels.
    """

    def __init__(self, conv: nn.Module, kernel: Tensor) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.register_buffer("kernel", kernel)

    def forward(self, features: Tensor, inputs: Tensor) -> Tensor:
        """The convolution's output, shifted, from it and from what the convolution read."""
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.kernel.dim() - 3]
        ones = inputs.new_ones((1, 1, *inputs.shape[2:]))
        return features.add_(convolve(ones, self.kernel, None, self.stride, self.padding, self.dilation))


class FixedSize(nn.Module):
    """Refuses images of another size: some constants of the network are maps, made for one size.

    Args:
        shape: of one image (C, H, W).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, images: Tensor) -> Tensor:
        """The images, (N, C, H, W).

        Raises:
            ValueError: they have another size.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"images of {tuple(images.shape[1:])}: this network was extracted for images of {self.shape}; extract "
                "it for the other size"
            )
        return images
