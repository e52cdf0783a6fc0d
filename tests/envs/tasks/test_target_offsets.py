from typing import Any

import numpy as np
import pytest
import torch

from plasticity.envs.datasets.datasets import Dataset
from plasticity.envs.tasks.target_offsets import TargetOffsets, TargetOffsetsSettings
from plasticity.settings.seeding import torch_generator


def images(count: int = 60) -> Dataset:
    pixels = torch.randint(256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return Dataset("small", pixels.to(torch.uint8), torch.zeros(count, dtype=torch.int64), 10)


def made(count: int = 60, seed: int = 0, **settings: Any) -> TargetOffsets:
    return TargetOffsets(images(count), TargetOffsetsSettings(**settings), seed)


def test_targets_have_the_offset_of_their_task_and_a_function_of_their_own() -> None:
    source = made(1500, offsets=[8.0, 0.0], targets=2)
    first, second, third = (source.task(number).train for number in range(3))
    assert first.targets.shape == (1500, 2)
    assert first.targets.dtype == torch.float32
    assert torch.equal(first.inputs, third.inputs)
    for task, offset in ((first, 8.0), (second, 0.0), (third, 0.0)):
        waves = task.targets - offset
        assert float(waves.abs().max()) <= 1.0001
        assert abs(float(waves.mean())) < 0.05  # a sine of noise: mean 0, variance 1/2
        assert float(waves.var()) == pytest.approx(0.5, abs=0.04)
    waves = torch.stack([first.targets[:, 0] - 8, second.targets[:, 0], third.targets[:, 0], third.targets[:, 1]])
    assert float((torch.corrcoef(waves) - torch.eye(4)).abs().max()) < 0.12


def test_the_function_is_smooth_at_a_low_frequency() -> None:
    # sin(M f) / M tends to f, which is linear in M: a check that the frequency is a factor inside.
    small, smaller = (made(offsets=[0.0], frequency=frequency).task(0).train.targets for frequency in (2e-3, 1e-3))
    torch.testing.assert_close(small, 2 * smaller, rtol=1e-4, atol=1e-6)
    assert float(small.abs().max()) > 0


def test_targets_are_the_sine_of_a_random_network_of_the_pixels_plus_the_offset() -> None:
    source = made(5, offsets=[16.0], frequency=50.0)
    generator = torch_generator(0, "task", 0, "function")
    hidden = torch.randn(16, 128, generator=generator, dtype=torch.float64).mul((2 / 16) ** 0.5).numpy()
    outward = torch.randn(128, 1, generator=generator, dtype=torch.float64).mul((2 / 128) ** 0.5).numpy()
    pixels = images(5).inputs.flatten(1).numpy() / 255.0
    expected = np.sin(50.0 * (np.maximum(pixels @ hidden, 0) @ outward)) + 16
    np.testing.assert_allclose(source.task(0).train.targets.numpy(), expected, rtol=0, atol=2e-6)
    assert source.input_shape == (1, 4, 4)


def test_a_resumed_source_gives_the_same_targets() -> None:
    one, other = made(offsets=[4.0], seed=3), made(offsets=[4.0], seed=3)
    one.task(0)
    assert torch.equal(one.task(1).train.targets, other.task(1).train.targets)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets must not be empty"):
        made(offsets=[])
    with pytest.raises(ValueError, match=r"env\.targets=0 must be at least 1"):
        made(targets=0)
