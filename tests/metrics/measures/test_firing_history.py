import pytest
import torch

from plasticity.metrics.measures.activity import rate_bins
from plasticity.metrics.measures.firing_history import BIN_NAMES, FiringHistory


def test_bins_by_hand() -> None:
    # Exactly 0; the bins from 0 to 0.25, 0.5, 0.75 and 1; exactly 1.
    rates = torch.tensor([0.0, 0.0, 0.1, 0.25, 0.49, 0.5, 0.99, 1.0])
    assert rate_bins(rates, 4).tolist() == [2 / 8, 1 / 8, 2 / 8, 1 / 8, 1 / 8, 1 / 8]


def test_rates_on_a_border_belong_above_it() -> None:
    counts = torch.arange(1, 20)
    bins = rate_bins((counts.double() / 20).float())
    assert (bins * 19).tolist() == pytest.approx([0.0, 0.0, *[1.0] * 19, 0.0])


def test_names_are_those_of_the_bins() -> None:
    assert len(BIN_NAMES) == len(rate_bins(torch.zeros(1))) == 22
    assert BIN_NAMES[:2] == ["0 exactly", "0-5 %"]
    assert BIN_NAMES[-2:] == ["95-100 %", "100 % exactly"]


def test_columns_are_added_and_survive_a_checkpoint() -> None:
    one, two = FiringHistory(), FiringHistory()
    one.add("all", 10, 0, torch.tensor([0.0, 1.0]))
    two.load_state_dict(one.state_dict())
    maps = [history.add("all", 20, 1, torch.tensor([0.5])) for history in (one, two)]
    for heatmap in maps:
        assert heatmap.steps.tolist() == [10, 20]
        assert heatmap.tasks.tolist() == [0, 1]
        assert heatmap.counts.tolist() == [2, 1]
        assert heatmap.shares.sum(1).tolist() == [1.0, 1.0]
        assert heatmap.shares[0, 0] == heatmap.shares[0, -1] == 0.5
        assert heatmap.shares[1, 11] == 1.0
