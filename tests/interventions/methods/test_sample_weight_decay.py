from typing import Any

import pytest
import torch

from plasticity.interventions.methods.sample_weight_decay import SampleWeightDecay, augmented_weights, decayed_weights


def test_weights_by_hand() -> None:
    # Ages 0 to 3, T = 4: 1, 3/4, 1/2, 1/4, and 1/10 from 3.6 on; the probabilities of the first four are 0.4 to 0.1.
    ages = torch.tensor([0.0, 1, 2, 3, 4, 400], dtype=torch.float64)
    weights = decayed_weights(ages, 4, 0.1)
    assert weights.tolist() == [1.0, 0.75, 0.5, 0.25, 0.1, 0.1]
    assert (weights[:4] / weights[:4].sum()).tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1], abs=1e-15)
    # The control: 0.1, 0.35, 0.6, 0.85, and 1 from 3.6 on.
    assert augmented_weights(ages, 4, 0.1).tolist() == pytest.approx([0.1, 0.35, 0.6, 0.85, 1.0, 1.0], abs=1e-15)


def test_which_transitions_weigh_more() -> None:
    ages = torch.arange(4, dtype=torch.float64)
    newer, older = (SampleWeightDecay(decay_env_steps=4, weigh=which).sample_weights(ages) for which in ("newer", "older"))
    assert newer.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert older.tolist() == pytest.approx([0.1, 0.35, 0.6, 0.85], abs=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay_env_steps": 0}, r"sample_weight_decay\.decay_env_steps=0 must be at least 1"),
        ({"smallest_weight": 0.0}, r"sample_weight_decay\.smallest_weight=0\.0 must be above 0 and at most 1"),
        ({"smallest_weight": 1.5}, r"sample_weight_decay\.smallest_weight=1\.5 must be above 0 and at most 1"),
        ({"weigh": "old"}, r"sample_weight_decay\.weigh=old is unknown.*; choose from newer, older"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleWeightDecay(**settings)
