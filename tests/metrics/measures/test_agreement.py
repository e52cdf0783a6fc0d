import pytest
import torch

from plasticity.metrics.measures.agreement import intraclass_correlation
from plasticity.metrics.undefined import Undefined


def test_two_repeats_by_hand() -> None:
    # Means 1.5, 3.5 and 7, their mean 4: MSB = 2 (6.25 + 0.25 + 9) / 2 = 15.5, MSW = (0.5 + 0.5 + 2) / 3 = 1.
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 6.0]])
    assert intraclass_correlation(values) == pytest.approx(14.5 / 16.5)


def test_three_repeats_by_hand() -> None:
    # Means 2 and 6, their mean 4: MSB = 3 (4 + 4) / 1 = 24, MSW = (2 + 8) / 4 = 2.5, so (24 - 2.5) / (24 + 2 * 2.5).
    values = torch.tensor([[1, 2, 3], [4, 6, 8]])
    assert intraclass_correlation(values) == pytest.approx(21.5 / 29)


def test_the_published_example() -> None:
    # Shrout and Fleiss 1979, tables 2 to 4: six targets, four judges, MSB 11.24, MSW 6.26, ICC(1,1) 0.17.
    rows = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert intraclass_correlation(torch.tensor(rows)) == pytest.approx(0.17, abs=0.005)


def test_the_ends_of_its_range() -> None:
    assert intraclass_correlation(torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])) == 1.0
    assert intraclass_correlation(torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]])) == pytest.approx(-1 / 2)  # equal means


def test_noise_is_about_as_large_as_it_is_made() -> None:
    # Variance 1 between networks and 1/4 within: a share of 0.8.
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 1, generator=generator) + 0.5 * torch.randn(4000, 3, generator=generator)
    assert intraclass_correlation(values) == pytest.approx(0.8, abs=0.02)


def test_where_there_is_none() -> None:
    same = intraclass_correlation(torch.ones(3, 2))
    assert isinstance(same, Undefined)
    assert same.reason == "all values are the same"
    missing = intraclass_correlation(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]))
    assert isinstance(missing, Undefined)
    assert missing.reason == "a repeat has no value"


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1)])
def test_fewer_than_two_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"values has shape .*; it must be \(n, k\), n networks and k repeats, at least 2 of both"
    ):
        intraclass_correlation(torch.zeros(shape))
