from typing import Any

import pytest
import torch

from plasticity.interventions.methods.regrama import ReGraMa, gradient_magnitude, inactive
from plasticity.networks.units import UnitSlice
from plasticity.optimizers.unit_adam import UnitAdam


def test_gradient_magnitude_by_hand() -> None:
    gradient = torch.tensor([[1.0, -3.0], [0.0, 0.0], [-0.5, 0.5]])
    assert gradient_magnitude(gradient, UnitSlice("w", 0, 3)).tolist() == [2.0, 0.0, 0.5]
    kernels = gradient.view(3, 2, 1, 1).expand(-1, -1, 3, 3)
    assert gradient_magnitude(kernels, UnitSlice("w", 0, 3)).tolist() == [2.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.0, [0]), (0.49, [0]), (0.5, [0, 1]), (1.0, [0, 1, 2]), (3.0, [0, 1, 2, 3])]
)
def test_inactive_by_hand(threshold: float, expected: list[int]) -> None:
    # Mean 2 of 0, 1, 2, 5.
    chosen = inactive(torch.tensor([0.0, 1.0, 2.0, 5.0]), threshold)
    assert chosen.nonzero().flatten().tolist() == expected


def test_no_gradient_at_all_chooses_no_unit() -> None:
    assert not inactive(torch.zeros(3), 10.0).any()
    assert not inactive(torch.full((3,), 1e-13), 10.0).any()


@pytest.mark.parametrize("outgoing", ["zero", "keep"])
@pytest.mark.parametrize(("every", "average"), [(1, 1), (4, 3)])
def test_against_loops(trained: Any, layout: str, every: int, average: int, outgoing: str) -> None:
    settings = {"every_updates": every, "average_updates": average, "outgoing": outgoing, "bias": "zero"}
    pair = trained(layout, lambda: ReGraMa(threshold=0.8, **settings))
    sums = {(layer.name, unit): 0.0 for layer in pair.layers for unit in range(layer.units)}
    resets = 0
    for step in range(1, 13):
        logs = pair.update(step)
        if (-step) % every < average:
            for layer in pair.layers:
                gradient = pair.twin.network.tensor(layer.weight.tensor).grad
                for unit in range(layer.units):
                    entries = [abs(value) for value in gradient[unit].flatten().tolist()]
                    sums[layer.name, unit] += sum(entries) / len(entries)
        chosen: dict[str, list[int]] = {layer.name: [] for layer in pair.layers}
        if step % every == 0:
            for layer in pair.layers:
                own = [sums[layer.name, unit] for unit in range(layer.units)]
                mean = sum(own) / len(own)
                chosen[layer.name] = [unit for unit, value in enumerate(own) if value <= 0.8 * mean and mean > 1e-12]
            sums = dict.fromkeys(sums, 0.0)
            assert int(logs["method/units_reset"]) == sum(map(len, chosen.values()))
        pair.assert_reset(chosen, outgoing)
        resets += sum(map(len, chosen.values()))
    assert resets > 2


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_step_does_not_bring_the_update_back(trained: Any, optimizer: str) -> None:
    # Nothing of the gradient of the reset reaches the fresh weights, then or by momentum in the next update.
    pair = trained("mlp", lambda: ReGraMa(threshold=10.0, every_updates=5), optimizer)
    for step in range(1, 6):
        pair.update(step)
    head = pair.part.network.tensor("head.linear.weight")
    weight = pair.part.network.tensor("torso.layers.dense_1.linear.weight")
    assert not head.any()
    before = weight.detach().clone()
    pair.update(6)
    assert torch.equal(weight, before)  # without outgoing weights there is no gradient, and of the old momentum nothing is left
    assert head.any()


def test_restart_counts_the_steps_from_zero(trained: Any) -> None:
    pair = trained("mlp", lambda: ReGraMa(threshold=0.5, every_updates=4, optimizer_state="restart"))
    for step in range(1, 5):
        logs = pair.update(step)
    assert 0 < int(logs["method/units_reset"]) < 13
    assert isinstance(pair.part.optimizer, UnitAdam)
    assert bool((pair.part.optimizer.restarted_at(pair.part.network.tensor("head.linear.weight")) == 4).any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": -1.0}, r"regrama\.threshold=-1\.0 must be at least 0"),
        ({"every_updates": 5, "average_updates": 6}, r"regrama\.average_updates=6 must be between 1 and 5"),
        ({"outgoing": "resample"}, r"outgoing=resample is unknown; choose from zero, keep"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReGraMa(**settings)
