"""The one network factory."""

from collections.abc import Sequence

import torch

from plasticity.networks.heads.ensemble import new_ensemble
from plasticity.networks.network import Network
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.torso_network import new_torso_network


def build_network(
    spec: NetworkSpec,
    input_shape: Sequence[int],
    input_dtype: torch.dtype,
    head: HeadSpec,
    seed: int,
    members: int = 1,
) -> Network:
    """Builds a network on the CPU.

    Every tensor is drawn by a generator of its own name, so a normalisation layer added by an intervention leaves the other
    tensors' initial values as they were.

    Args:
        spec: The torso.
        input_shape: (D,) or (C, H, W).
        input_dtype: ``torch.uint8`` for images in 0..255, else a float type.
        head: The output.
        seed: Seed of the initial values.
        members: Networks of this shape side by side; 1 for a single network.

    Raises:
        ValueError: If a name is unknown or a size does not fit.
    """
    if members > 1:
        return new_ensemble(spec, input_shape, input_dtype, head, seed, members)
    return new_torso_network(spec, input_shape, input_dtype, head, seed)
