"""Convolutions that are safe on every processor.

On processors without AVX-512, oneDNN's backward pass of a 1x1 convolution with a stride above 1 and 2 to 7 input channels, in
channels-last memory and float32, writes past the end of a buffer: the heap is corrupted, or gradients are wrong without a message
(oneDNN issue 6035). Observed where the stride divides the side. Such a convolution reads only every stride-th pixel, so it is the
1x1 convolution of these pixels. Torsos of plugins should use these maps too.
"""

from torch import Tensor, nn
from torch.nn import functional

Sides = tuple[int, ...]


class Convolution(nn.Conv2d):
    """``nn.Conv2d`` with zero padding, by ``convolve``. All networks are made of these."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H', W')."""
        return convolve(input, self.weight, self.bias, self.stride, self.padding, self.groups)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sides, padding: Sides | str, groups: int = 1) -> Tensor:
    """As ``torch.nn.functional.conv2d``, but on a CPU a strided 1x1 convolution is made of the pixels that it reads.

    Args:
        x: (B, C, H, W).
        weight: (out, C / groups, *kernel).
        bias: (out,), or None.
        stride: In pixels, (down, across).
        padding: Zeros around the image, in pixels, (down, across); or ``valid`` or ``same``, as in PyTorch.
        groups: Groups of channels that do not mix.
    """
    if stride != (1, 1) and weight.shape[2:] == (1, 1) and x.device.type == "cpu":
        down, across = (0, 0) if isinstance(padding, str) else padding  # nothing is added to keep the size under a 1x1 kernel
        x = functional.pad(x, (across, across, down, down)) if down or across else x
        return functional.conv2d(x[:, :, :: stride[0], :: stride[1]], weight, bias, groups=groups)
    return functional.conv2d(x, weight, bias, stride, padding, groups=groups)
