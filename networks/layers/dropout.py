"""Dropout whose masks are a function of two random words, so that the caller that draws the words decides when masks change."""

from typing import Final

import torch
from torch import Tensor, nn

_BITS: Final = 32
_MASK: Final = 2**_BITS - 1
# Both are below 2^31, so that no product with a word of 32 bits overflows an int64.
_FIRST: Final = 0x21F0AAAD
_SECOND: Final = 0x735A2D97
WORDS: Final = "words"


class Dropout(nn.Module):
    """Sets each entry to 0 with probability ``rate`` and divides the others by 1 - rate (Srivastava et al. 2014).

    In evaluation mode it returns its input. In training mode the mask follows from ``words`` and the shape alone, by integer
    arithmetic: it is the same in a second forward of one update, after a resume, in a compiled or recorded update, on every
    device and in every layout of memory. The intervention ``dropout`` draws new words after each update.

    Args:
        rate: Probability of a 0, in [0, 1).

    Attributes:
        words: (2,) int64, numbers below 2^32. They belong to the run and not to the layer's values: a reset leaves them alone.
        drawn: Whether ``draw`` was called, here or on the layer that this one is a copy of.
    """

    words: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.drawn = rate, False
        self.register_buffer(WORDS, torch.zeros(2, dtype=torch.int64))

    def forward(self, h: Tensor) -> Tensor:
        """Maps activations of any shape to the same shape.

        Raises:
            ValueError: In training mode, if the words were never drawn, as every update would have the same mask.
        """
        if not self.training or self.rate == 0:
            return h
        if not self.drawn:
            raise ValueError("network.dropout_rates is what the method dropout sets; choose intervention=[dropout]")
        kept = hashed(self.words, h.numel()).view(h.shape) >= round(self.rate * 2**_BITS)
        scaled: Tensor = h * kept * (1 / (1 - self.rate))  # a product keeps the layout of its first factor, where() does not
        return scaled


@torch.no_grad()
def draw(layers: list[Dropout], generator: torch.Generator) -> None:
    """Draws the words of layers, and with them the next masks.

    Args:
        layers: All of one network.
        generator: On their device.
    """
    drawn = torch.randint(2**_BITS, (len(layers), 2), generator=generator, device=generator.device)
    torch._foreach_copy_([layer.words for layer in layers], list(drawn.unbind()))
    for layer in layers:
        layer.drawn = True


def dropout_layers(network: nn.Module) -> list[Dropout]:
    """Returns those of a network, in forward order."""
    return [module for module in network.modules() if isinstance(module, Dropout)]


def without_dropout(network: nn.Module) -> None:
    """Turns dropout off for good in a copy that is trained to measure something."""
    for layer in dropout_layers(network):
        layer.rate = 0.0


def hashed(words: Tensor, count: int) -> Tensor:
    """Returns ``count`` numbers below 2^32 from two words, as good as independent and uniform over the draws of these.

    Each is the number of its place, mixed by two multiplications with one word ahead of each. That is just enough for a mask: the
    last bits are worse than the first, which decide whether a number is below a rate.

    Args:
        words: (2,) int64, numbers below 2^32.
        count: At most 2^32.

    Returns:
        (count,) int64.
    """
    first, second = words.unbind()
    bits = torch.arange(count, device=words.device).bitwise_xor_(first).mul_(_FIRST).bitwise_and_(_MASK)
    return bits.bitwise_xor_(bits >> 15).bitwise_xor_(second).mul_(_SECOND).bitwise_and_(_MASK)
