"""What unit resets measure and choose: activity per unit, the lowest of a layer, and vectors that hold all layers together."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from plasticity.interventions.base import Update


def require_units(method: str, u: Update) -> None:
    """Raises ValueError if the network has no hidden unit that could be reset."""
    if not u.network.units.layers:
        raise ValueError(f"intervention {method} resets hidden units, and this network has none; give network.widths or a torso")


def mean_activity(post: Tensor, copies: int) -> Tensor:
    """Returns the mean |h| of each unit over batch, positions and, for CReLU, both halves.

    Args:
        post: Post-activations (B, copies * U) or (B, copies * U, H, W).
        copies: Channels per unit.

    Returns:
        (U,), float32.
    """
    axes = [axis for axis in range(post.ndim) if axis != 1]
    return post.abs().float().mean(axes).view(copies, -1).mean(0)


def joined(posts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Puts the post-activations (B, channels) of dense layers side by side, if there is nothing else and all have as many rows.

    Joined first, they need one reduction; on a small network the number of operations determines the time.
    """
    alike = len(posts) > 1 and all(post.ndim == 2 and len(post) == len(posts[0]) for post in posts)
    return [torch.cat(list(posts), 1)] if alike else posts


def mean_over_inputs(posts: Sequence[Tensor]) -> Tensor:
    """Returns the mean h of each channel over batch and positions, layer after layer in one vector, float32.

    Args:
        posts: Post-activations of each layer, (B, channels, ...), of one batch size.
    """
    means = [post.float().flatten(2).mean((0, 2)) if post.ndim > 2 else post.float().mean(0) for post in joined(posts)]
    return means[0] if len(means) == 1 else torch.cat(means)


def lowest(utility: Tensor, eligible: Tensor, count: Tensor | int) -> Tensor:
    """Marks the ``count`` eligible units of lowest utility, without reading ``count`` on the host; ties go to the first.

    Args:
        utility: (U,).
        eligible: Boolean (U,).
        count: Number of units, 0-dim if a tensor.

    Returns:
        Boolean (U,).
    """
    rank = utility.masked_fill(~eligible, torch.inf).argsort(stable=True).argsort()
    return (rank < count) & eligible


def averaged_at(step: int, every: int, average: int) -> bool:
    """Tells whether update ``step`` is one of the last ``average`` of a period of ``every`` updates; 0 means never."""
    return every > 0 and -step % every < average


class LayerSlices:
    """One vector that holds a slice for every layer, so that what is done to all layers is done at once.

    Args:
        sizes: Length of each layer's slice.
        device: Where vectors are made.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        ends = list(accumulate(sizes))
        self._slices = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._length, self._device = ends[-1], device

    def full(self, value: float = 0.0, *, columns: int = 0) -> Tensor:
        """Returns a float32 vector of the joint length, or that many rows of ``columns``, filled with ``value``."""
        shape = (self._length, columns) if columns else (self._length,)
        return torch.full(shape, value, device=self._device)

    def of(self, vector: Tensor, index: int) -> Tensor:
        """Returns one layer's slice, a view."""
        return vector[self._slices[index]]
