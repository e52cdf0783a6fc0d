"""Private random generators: one per purpose, derived from the run's seed and the purpose's name.

A generator that belongs to one name only is what makes methods comparable: turning one on, or adding a layer, draws nothing from
any other stream.
"""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """Returns a 63-bit seed that depends on ``seed`` and every name, and is the same on every machine."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Returns a torch generator private to (seed, names)."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Returns a NumPy generator private to (seed, names)."""
    return np.random.default_rng(derive_seed(seed, *names))


def restore_generator(generator: torch.Generator, state: torch.Tensor) -> None:
    """Sets a generator to a saved state; if that comes from a generator of another kind of device, to a seed derived from it.

    Args:
        generator: Changed.
        state: What ``get_state`` returned, (bytes,) uint8; its length identifies the kind.
    """
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(derive_seed(0, hashlib.sha256(state.numpy().tobytes()).hexdigest()))
