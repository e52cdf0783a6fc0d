"""What the probe fits of a network's outputs, and by which loss: the outputs themselves, or the values that they stand for."""

from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.networks.heads.output_heads import PairedHead
from plasticity.networks.network import Network
from plasticity.networks.torsos.torso_network import TorsoNetwork

VALUES: Final = "values"
SPACES: Final = (VALUES, "outputs")
ValueErrors = Callable[[Tensor, Tensor], Tensor]


class Space(Protocol):
    """Numbers that a network gives for inputs, and a loss by which they are learned."""

    def read(self, network: Network, outputs: Tensor) -> Tensor:
        """Returns the numbers, (B, columns), float32 or better, that the outputs of this network stand for."""
        ...

    def loss(self, network: Network, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss, 0-dim, of outputs (B, ...) against targets for ``read``."""
        ...


class OutputSpace:
    """Outputs as they are, learned by their squared error."""

    def read(self, network: Network, outputs: Tensor) -> Tensor:
        """Returns the outputs."""
        return outputs if outputs.dtype == torch.float64 else outputs.float()

    def loss(self, network: Network, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean squared error."""
        return functional.mse_loss(outputs.float(), targets)


class ValueSpace:
    """Decoded values of a categorical head, learned by the agent's own loss.

    Args:
        errors: Maps logits (B, V, Z) and values (B, V) to the error of each, (B, V), as the agent learns values.
    """

    def __init__(self, errors: ValueErrors) -> None:
        self._errors = errors

    def read(self, network: Network, outputs: Tensor) -> Tensor:
        """Returns the values, (B, V)."""
        return network.decode(outputs)

    def loss(self, network: Network, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean of the agent's error."""
        return self._errors(outputs, targets).mean()


class PairSpace:
    """A policy's outputs as they are, with decoded values of the categorical head that reads the same features.

    Args:
        errors: As for ``ValueSpace``.
    """

    def __init__(self, errors: ValueErrors) -> None:
        self._errors = errors

    def read(self, network: Network, outputs: Tensor) -> Tensor:
        """Returns the policy's columns, then the values."""
        pair = _pair(network)
        first, second = pair.split(outputs)
        return torch.cat([first if first.dtype == torch.float64 else first.float(), pair.second.decode(second)], dim=1)

    def loss(self, network: Network, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over columns of squared errors of the policy's and the agent's error of the values."""
        first, second = _pair(network).split(outputs)
        wanted, values = targets.tensor_split([first.shape[1]], dim=1)
        return torch.cat([(first.float() - wanted).square(), self._errors(second, values)], dim=1).mean()


def space_of(network: Network, errors: ValueErrors | None, name: str) -> Space | None:
    """Returns the space that a part is probed in; None if its values are requested and it does not define how it learns them.

    Scalar values, policies and classes are outputs as they are in either space, so that nothing changes for them.

    Args:
        network: The part's network.
        errors: How the part learns values that are categoricals, or None.
        name: A member of ``SPACES``.
    """
    spec = network.head_spec
    second = spec.second is not None and spec.second.kind == "categorical"
    if name != VALUES or not (second or spec.kind == "categorical"):
        return OutputSpace()
    if errors is None:
        return None
    return PairSpace(errors) if second else ValueSpace(errors)


def _pair(network: Network) -> PairedHead:
    assert isinstance(network, TorsoNetwork)
    assert isinstance(network.head, PairedHead)
    return network.head
