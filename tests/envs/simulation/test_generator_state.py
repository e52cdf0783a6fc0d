import numpy as np
import pytest

from plasticity.envs.simulation.generator_state import generator_state, restored_generator


@pytest.mark.parametrize("draws", [0, 1, 2, 7])
def test_a_restored_generator_draws_the_same_numbers(draws: int) -> None:
    """32-bit draws take half a word each, so after an odd number of them the other half waits in the state."""
    generator = np.random.default_rng(3)
    generator.integers(1000, size=draws)
    state = generator_state(generator)
    assert state["has_uint32"] == draws % 2
    assert all(type(value) in (str, int) for value in state.values())
    assert all(value < 2**32 for value in state.values() if isinstance(value, int))
    restored = restored_generator(state)
    assert restored.integers(1000, size=50).tolist() == generator.integers(1000, size=50).tolist()
    assert restored.normal() == generator.normal()


def test_another_kind_of_generator_is_refused() -> None:
    state = generator_state(np.random.default_rng(0)) | {"bit_generator": "MT19937"}
    with pytest.raises(ValueError, match="must be of PCG64, got 'MT19937'"):
        restored_generator(state)
