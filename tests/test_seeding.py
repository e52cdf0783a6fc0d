import hashlib

import numpy as np
import torch

from plasticity.settings.seeding import derive_seed, numpy_generator, restore_generator, torch_generator


def test_a_seed_is_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"3\x1fq\x1fredo").digest()
    assert derive_seed(3, "q", "redo") == int.from_bytes(digest[:8], "big") // 2
    assert derive_seed(0) == 3456079177858693020


def test_seeds_fit_63_bits() -> None:
    assert all(0 <= derive_seed(seed, "x") < 2**63 for seed in range(500))
    assert max(derive_seed(seed, "x") for seed in range(500)) > 2**62


def test_every_seed_and_every_name_counts() -> None:
    keys = [(0,), (1,), (0, "a"), (0, "b"), (1, "a"), (0, "a", "b"), (0, "b", "a"), (0, "ab"), (0, "a", 0), (-1,), (0, "")]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_boundaries_between_names_count() -> None:
    assert derive_seed(1, "23") != derive_seed(12, "3")
    assert derive_seed(0, "actor", "critic") != derive_seed(0, "actorcritic")
    assert derive_seed(0, "actor", 12) != derive_seed(0, "actor", 1, 2)


def test_numbers_and_their_digits_are_one_name() -> None:
    assert derive_seed(0, 7) == derive_seed(0, "7")


def test_torch_generators_are_private() -> None:
    state = torch.get_rng_state()
    first, again, other = (torch_generator(0, name) for name in ("a", "a", "b"))
    draws = [torch.rand(5, generator=generator) for generator in (first, again, other)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert first.device == torch.device("cpu")


def test_numpy_generators_are_private() -> None:
    draws = [numpy_generator(0, name).random(5) for name in ("a", "a", "b")]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_a_generator_of_another_kind_starts_from_a_seed_that_depends_on_the_saved_state() -> None:
    """CUDA's states have 16 bytes and the CPU's 5,056."""
    first, second = (torch.arange(number, number + 16, dtype=torch.uint8) for number in (0, 1))
    draws = []
    for state in (first, first, second):
        generator = torch_generator(0, "any")
        restore_generator(generator, state)
        draws.append(torch.rand(3, generator=generator))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_generator_of_the_same_kind_continues_exactly() -> None:
    generator, other = torch_generator(0, "one"), torch_generator(0, "other")
    restore_generator(other, generator.get_state())
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=other))
