"""Building streams from settings."""

import torch

from plasticity.envs.problem import Problem
from plasticity.envs.registry import STREAMS, StreamSettings
from plasticity.envs.stream import Stream


def build_stream(settings: object, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    """Builds the stream that settings describe.

    Args:
        settings: An instance of a class in ``STREAMS``.
        seed: The run's seed.
        device: That of the learner, where data are kept unless the settings choose another place.

    Raises:
        ValueError: If a setting makes no sense or data are missing.
        TypeError: If the settings are not those of a stream.
    """
    if not isinstance(settings, StreamSettings):
        raise TypeError(f"{type(settings).__name__} is not among the settings of {', '.join(STREAMS)}")
    return settings.build(seed, device)
