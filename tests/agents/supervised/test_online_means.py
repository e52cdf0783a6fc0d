import torch

from plasticity.agents.supervised.online_means import OnlineMeans


def test_minibatches_count_by_their_examples() -> None:
    means = OnlineMeans()
    for value, examples in ((1.0, 1), (0.5, 4), (0.0, 5)):
        means.add({"accuracy": torch.tensor(value), "loss": 2 * value}, examples)
    assert means.means() == {"accuracy": 0.3, "loss": 0.6}
    means.clear()
    assert means.means() == {}


def test_a_stop_at_any_place_changes_no_bit() -> None:
    values = torch.rand(3000, generator=torch.Generator().manual_seed(0))
    whole, stopped = OnlineMeans(), OnlineMeans()
    for place, value in enumerate(values):
        for means in (whole, stopped):
            means.add({"loss": value}, 1 + place % 3)
        if place in (0, 500, 1023, 1024, 2500):
            stopped.means()
            state, stopped = stopped.state_dict(), OnlineMeans()
            stopped.load_state_dict(state)
    assert stopped.means() == whole.means()
    sizes = 1 + torch.arange(3000, dtype=torch.float64) % 3
    assert abs(whole.means()["loss"] - float((values * sizes).sum() / sizes.sum())) < 1e-12


def test_many_examples_are_counted_exactly() -> None:
    means = OnlineMeans()
    means.add({"accuracy": torch.tensor(1.0)}, 2**24)
    for _ in range(2048):
        means.add({"accuracy": torch.tensor(1.0)}, 1)
    assert means.means()["accuracy"] == 1.0
