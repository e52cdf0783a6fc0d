from typing import Any

import pytest
import torch

from plasticity.envs.tasks.slow_regression import SlowRegression, SlowRegressionSettings, ThresholdNetwork


def made(seed: int, **settings: Any) -> SlowRegression:
    return SlowRegression(SlowRegressionSettings(**settings), seed)


def test_slow_bits_flip_one_at_a_time_and_fast_ones_are_drawn() -> None:
    source = made(0, examples_per_task=500)
    flipped: list[int] = []
    before: torch.Tensor | None = None
    for number in range(60):
        inputs = source.task(number).train.inputs
        assert inputs.shape == (500, 20)
        assert inputs.dtype == torch.float32
        assert set(inputs.unique().tolist()) <= {0.0, 1.0}
        slow = inputs[:, :15]
        assert bool((slow == slow[0]).all())
        means = inputs[:, 15:].mean(0)
        assert bool(((means > 0.4) & (means < 0.6)).all())  # 0.5 expected, standard deviation 0.022
        if before is not None:
            change = (slow[0] != before).nonzero().squeeze(1).tolist()
            assert len(change) == 1
            flipped += change
        before = slow[0]
    assert len(set(flipped)) > 10


def test_any_task_can_be_made_first() -> None:
    one, other = (
        made(5, examples_per_task=10),
        made(5, examples_per_task=10),
    )
    expected = [one.task(number).train for number in range(6)]
    for number in (5, 0, 3):
        task = other.task(number).train
        assert torch.equal(task.inputs, expected[number].inputs)
        assert torch.equal(task.targets, expected[number].targets)
    assert not torch.equal(made(6, examples_per_task=10).task(0).train.inputs, expected[0].inputs)


def test_all_slow_bits_can_be_drawn_anew() -> None:
    source = made(0, examples_per_task=2, redraw_all=True)
    bits = torch.stack([source.slow_values(number) for number in range(200)])
    changes = (bits[1:] != bits[:-1]).sum(1).float()
    assert 6.5 < float(changes.mean()) < 8.5  # 7.5 expected
    assert 0.4 < float(bits.mean()) < 0.6


def test_targets_by_hand() -> None:
    network = ThresholdNetwork(3, 2, 0.5, False, torch.Generator().manual_seed(0))
    network.weight = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]])
    network.bias = torch.tensor([1.0, -1.0])
    network.output_weight, network.output_bias = torch.tensor([2.0, 5.0]), torch.tensor([1.0])
    # beta (3 + 1) = 2, minus the number of -1s: 2 - 1 and 2 - 4.
    network.threshold = torch.tensor([1.0, -2.0])
    # 1 0 0: 2 > 1 and -2 > -2 is false. 0 1 0: 0 > 1 is false, -2 false. 0 0 0: 1 > 1 is false, -1 > -2. 1 0 1: 3 > 1, -3 false.
    targets = network(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0], [1.0, 0, 1.0]]))
    assert targets.tolist() == [[3.0], [1.0], [6.0], [3.0]]


def test_thresholds_count_the_negative_weights() -> None:
    for published in (False, True):
        network = ThresholdNetwork(20, 50, 0.7, published, torch.Generator().manual_seed(1))
        for unit in range(50):
            weights, bias = network.weight[unit].tolist(), float(network.bias[unit])
            assert set(weights) <= {-1.0, 1.0}
            count = weights.count(-1.0) + (bias < 0)
            expected = (20 - sum(weights) + bias) / 2 if published else count
            assert float(network.threshold[unit]) == pytest.approx(0.7 * 21 - expected, abs=1e-5)


def test_targets_are_those_of_the_published_problem_in_size() -> None:
    # Over 20 networks of the published code: standard deviation 1.63, units on 2.9 % of the time.
    stds = []
    for seed in range(20):
        source = made(seed, examples_per_task=20, redraw_all=True, published_threshold=True)
        targets = torch.cat([source.task(number).train.targets for number in range(100)])
        stds.append(float(targets.std()))
    assert 1.2 < sum(stds) / 20 < 2.0


@pytest.mark.parametrize("settings", [{"slow_bits": 0}, {"slow_bits": 21}, {"examples_per_task": 0}, {"target_units": 0}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.* must "):
        made(0, **settings)
