import pytest
import torch

from plasticity.envs.tasks.transformations import TRANSFORMATIONS, permuted_labels, permuted_pixels, random_labels, unchanged

INPUTS = torch.arange(5 * 2 * 2 * 3, dtype=torch.uint8).reshape(5, 2, 2, 3)
TARGETS = torch.tensor([2, 0, 1, 0, 2])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_one_permutation_of_all_positions_is_applied_to_every_example() -> None:
    inputs, targets = permuted_pixels(INPUTS, TARGETS, 3, generator())
    permutation = torch.randperm(12, generator=generator())
    assert permutation.tolist() != list(range(12))
    for before, after in zip(INPUTS, inputs, strict=True):
        assert after.flatten().tolist() == [before.flatten().tolist()[position] for position in permutation.tolist()]
    assert inputs.shape == INPUTS.shape
    assert inputs.dtype == torch.uint8
    assert torch.equal(targets, TARGETS)


def test_pixels_move_across_channels() -> None:
    channels = torch.tensor([0, 1], dtype=torch.uint8).reshape(1, 2, 1, 1).expand(1, 2, 8, 8)
    inputs, _ = permuted_pixels(channels, TARGETS[:1], 3, generator())
    assert sorted(inputs.flatten().tolist()) == [0] * 64 + [1] * 64
    assert 16 < int(inputs[0, 0].sum()) < 48


def test_labels_are_renamed_one_to_one() -> None:
    _, targets = permuted_labels(INPUTS, TARGETS, 3, generator(1))
    renamed = torch.randperm(3, generator=generator(1)).tolist()
    assert renamed != [0, 1, 2]
    assert targets.tolist() == [renamed[label] for label in TARGETS.tolist()]


def test_random_labels_are_uniform_and_ignore_the_true_ones() -> None:
    true = torch.zeros(30_000, dtype=torch.int64)
    inputs, targets = random_labels(INPUTS, true, 3, generator())
    assert inputs is INPUTS
    counts = targets.bincount(minlength=3)
    # 10,000 expected of each; six standard deviations are 490
    assert int((counts - 10_000).abs().max()) < 490
    assert targets.dtype == torch.int64


def test_none_changes_nothing() -> None:
    assert unchanged(INPUTS, TARGETS, 3, generator()) == (INPUTS, TARGETS)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_arguments_are_left_alone_and_the_generator_decides(name: str) -> None:
    inputs, targets = INPUTS.clone(), TARGETS.clone()
    transform = TRANSFORMATIONS[name]
    first, again, other = (transform(inputs, targets, 3, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(inputs, INPUTS)
    assert torch.equal(targets, TARGETS)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    differs = not (torch.equal(first[0], other[0]) and torch.equal(first[1], other[1]))
    assert differs == (name != "none")
