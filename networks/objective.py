"""What a network is trained on, and what it is trained for."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, SupportsIndex, TypeVar

from torch import Tensor


class Batch(Protocol):
    """What one update learns from: a named tuple of tensors with a leading axis of the same length, one of them ``inputs``."""

    @property
    def inputs(self) -> Tensor:
        """What the network reads, (B, *input_shape)."""
        ...

    def __getitem__(self, index: SupportsIndex, /) -> Tensor:
        """Returns one of the tensors."""
        ...

    def __iter__(self) -> Iterator[Tensor]:
        """Iterates over the tensors."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=Batch)
# Maps the network's outputs and the batch to a scalar loss and to further measures by name.
Objective = Callable[[Tensor, AnyBatch], tuple[Tensor, Mapping[str, Tensor]]]
