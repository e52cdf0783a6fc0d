"""NumPy generator states in a form that a checkpoint can hold without arbitrary code."""

from typing import Any

import numpy as np
import torch


def generator_state(generator: np.random.Generator) -> dict[str, str | int]:
    """Returns the state of a PCG64 generator as strings and small integers (its own words have 128 bits)."""
    state = generator.bit_generator.state
    return {
        "bit_generator": state["bit_generator"],
        "state": str(state["state"]["state"]),
        "increment": str(state["state"]["inc"]),
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }


def restored_generator(state: dict[str, str | int]) -> np.random.Generator:
    """Returns a generator that continues from ``generator_state``; ValueError if the state is of another kind."""
    if state["bit_generator"] != "PCG64":
        raise ValueError(f"generator state must be of PCG64, got {state['bit_generator']!r}")
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": int(state["state"]), "inc": int(state["increment"])},
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }
    return np.random.Generator(bits)


def state_of_old_generator(generator: np.random.RandomState) -> dict[str, Any]:
    """Returns the state of a generator of NumPy's old kind, which some simulators draw from, as a tensor and numbers."""
    drawing: Any = generator.get_state(legacy=False)
    return {
        "key": torch.from_numpy(drawing["state"]["key"].astype(np.int64)),
        "position": int(drawing["state"]["pos"]),
        "has_gauss": int(drawing["has_gauss"]),
        "gauss": float(drawing["gauss"]),
    }


def restore_old_generator(generator: np.random.RandomState, state: dict[str, Any]) -> None:
    """Restores a generator to ``state_of_old_generator``."""
    key = state["key"].numpy().astype(np.uint32)
    generator.set_state(("MT19937", key, state["position"], state["has_gauss"], state["gauss"]))
