import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.measures import hessian
from plasticity.metrics.measures.hessian import (
    Spectrum,
    estimated_spectrum,
    estimated_trace,
    rank_of,
    tridiagonal,
    whole_spectrum,
)
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView, view_part
from plasticity.networks.torsos.feedforward import ConvSpec, MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

CPU = torch.device("cpu")
CASES = {
    "linear": (MLPSpec(widths=[]), (3,)),
    "tanh": (MLPSpec(widths=[4], activations=["tanh"], normalisation=["batch"]), (3,)),
    "relu": (MLPSpec(widths=[6, 5]), (3,)),
    "wide": (MLPSpec(widths=[12, 16], activations=["gelu"]), (4,)),
    "conv": (ConvSpec(widths=[5], channels=[3], kernel_sizes=[2], pools=[2], activations=["elu"]), (2, 5, 5)),
}


def learner(case: str, updates: int = 3) -> SupervisedLearner:
    spec, shape = CASES[case]
    agent = SupervisedLearner(
        SupervisedSettings(), 3, True, PartBuilder(spec, shape, torch.float32, OptimizerSettings("sgd", 0.1))
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        inputs, labels = torch.randn(20, *shape, generator=generator), torch.randint(3, (20,), generator=generator)
        agent.learn(Experience(Examples(inputs, labels), 0))
    return agent


def view_of(agent: SupervisedLearner) -> PartView:
    return view_part("learner", agent.learner, None)


def whole(agent: SupervisedLearner) -> Tensor:
    """The matrix by automatic differentiation, a block for each pair of parameters, in float64."""
    network, examples = agent.learner.network, agent.learner.examples
    batch, objective = examples.latest(64), examples.objective
    assert batch is not None
    assert objective is not None
    names = [name for name, _ in network.named_parameters()]
    values = tuple(parameter.detach() for parameter in network.parameters())
    network.eval()

    def loss(*parameters: Tensor) -> Tensor:
        return objective(torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (batch.inputs,)), batch)[
            0
        ]

    blocks = torch.autograd.functional.hessian(loss, values)
    sizes = [value.numel() for value in values]
    rows = [torch.cat([b.reshape(size, -1) for b in row], 1) for row, size in zip(blocks, sizes, strict=True)]
    return torch.cat(rows).double()


def rank_by_loops(values: Sequence[float]) -> float:
    magnitudes = [abs(value) for value in values]
    kept = [value for value in magnitudes if value > 1e-6 * max(magnitudes)]
    return math.exp(-sum(value / sum(kept) * math.log(value / sum(kept)) for value in kept))


def test_two_parameters_by_hand() -> None:
    # The loss of w x + b on targets y is the mean of (w x + b - y)^2; its Hessian is 2 times the mean of (x, 1)(x, 1)^T. Of x = 2
    # and 0 that is 2 [[2, 1], [1, 1]]: trace 6, eigenvalues 3 +- sqrt(5), shares 0.8727 and 0.1273, entropy 0.3812.
    # Of x = 1 and -1 it is 2 times the identity: trace 4, rank 2. Of x = 0 and 0 it is diag(0, 2): trace 2, rank 1.
    for inputs, trace, rank in [([2.0, 0.0], 6.0, 1.4640), ([1.0, -1.0], 4.0, 2.0), ([0.0, 0.0], 2.0, 1.0)]:
        builder = PartBuilder(MLPSpec(widths=[]), (1,), torch.float32, OptimizerSettings("sgd", 0.0))
        agent = SupervisedLearner(SupervisedSettings(), 1, False, builder)
        agent.learn(Experience(Examples(torch.tensor(inputs).view(2, 1), torch.tensor([[3.0], [5.0]])), 0))
        assert measured("hessian_trace", agent) == pytest.approx(trace, rel=1e-5)
        assert measured("hessian_effective_rank", agent) == pytest.approx(rank, rel=1e-4)


def measured(name: str, agent: SupervisedLearner) -> float:
    with torch.no_grad():
        values = CATALOGUE[name].measure([view_of(agent)])
    assert values[""] == values["/learner"] or values[""] != values[""]
    return values[""]  # type: ignore[return-value]


@pytest.mark.parametrize("case", CASES)
def test_against_the_whole_matrix(case: str) -> None:
    agent = learner(case)
    matrix = whole(agent)
    assert len(matrix) <= hessian.MOST_EXACT
    spectrum = torch.linalg.eigvalsh(matrix)
    found = whole_spectrum(view_of(agent))
    assert isinstance(found, Spectrum)
    torch.testing.assert_close(found.values, spectrum, rtol=1e-4, atol=1e-6)
    assert measured("hessian_trace", agent) == pytest.approx(float(matrix.trace()), rel=1e-4)
    assert measured("hessian_effective_rank", agent) == pytest.approx(rank_by_loops(spectrum.tolist()), rel=1e-3)


@pytest.mark.parametrize("case", ["relu", "wide", "conv"])
def test_what_is_estimated_comes_near(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = learner(case)
    matrix = whole(agent)
    monkeypatch.setattr(hessian, "MOST_EXACT", 0)
    deviation = float((2 / hessian.TRACE_PROBES * (matrix.square().sum() - matrix.diagonal().square().sum())).sqrt())
    assert measured("hessian_trace", agent) == pytest.approx(float(matrix.trace()), abs=3.5 * deviation)
    exact = rank_by_loops(torch.linalg.eigvalsh(matrix).tolist())
    assert measured("hessian_effective_rank", agent) == pytest.approx(exact, rel=0.15)


def test_nothing_is_left_behind() -> None:
    agent = learner("tanh")
    before = {name: value.clone() for name, value in agent.learner.network.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = [measured(name, agent) for name in ("hessian_trace", "hessian_effective_rank")]
    assert torch.equal(torch.get_rng_state(), state)
    assert [measured(name, agent) for name in ("hessian_trace", "hessian_effective_rank")] == first
    assert all(torch.equal(value, before[name]) for name, value in agent.learner.network.state_dict().items())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in agent.learner.network.parameters())


def test_random_signs_find_the_trace_of_a_diagonal_matrix_at_once() -> None:
    # z^T D z is the sum of D's entries for any signs.
    entries = torch.tensor([5.0, -2.0, 0.5, 0.0])
    assert estimated_trace(lambda vector: entries * vector, 4, CPU, probes=1) == pytest.approx(3.5)


def test_the_variance_of_the_trace_is_what_it_says() -> None:
    root = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    matrix = root + root.T
    variance = float(2 * (matrix.square().sum() - matrix.diagonal().square().sum()))
    generator = torch.Generator().manual_seed(2)
    signs = torch.randint(2, (4000, 12), generator=generator) * 2.0 - 1.0
    values = ((signs @ matrix) * signs).sum(1)
    assert float(values.var()) == pytest.approx(variance, rel=0.1)
    found = estimated_trace(lambda vector: matrix @ vector, 12, CPU, probes=400)
    assert found == pytest.approx(float(matrix.trace()), abs=4 * (variance / 400) ** 0.5)


def test_two_steps_of_lanczos_by_hand() -> None:
    # D = diag(1, 3) from (1, 1): the image of q = (1, 1) / sqrt(2) is (1, 3) / sqrt(2), its share along q 2, the rest
    # (-1, 1) / sqrt(2) of length 1; from there 2 again.
    matrix = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(
        tridiagonal(lambda vector: matrix * vector, torch.ones(2), 5), torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    )


def test_lanczos_ends_where_nothing_new_comes() -> None:
    assert tridiagonal(lambda vector: 3 * vector, torch.ones(7), 5).tolist() == [[pytest.approx(3.0)]]
    assert tridiagonal(torch.zeros_like, torch.ones(7), 5).tolist() == [[0.0]]
    one = torch.ones(7)
    assert len(tridiagonal(lambda vector: one * (one @ vector), torch.arange(7.0), 5)) == 2


def test_a_diagonal_matrix_has_its_own_spectrum() -> None:
    # Signs weigh each eigenvector of a diagonal matrix equally, so each eigenvalue stands for one: 1/7 of 7.
    entries = torch.tensor([4.0, -3.0, 2.0, 1.0, -0.5, 0.25, 0.0])
    found = estimated_spectrum(lambda vector: entries * vector, 7, CPU, probes=1, steps=120)
    torch.testing.assert_close(found.values, entries.sort().values.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.counts, torch.ones(7).double(), rtol=1e-4, atol=1e-4)
    assert rank_of(found) == pytest.approx(rank_by_loops(entries.tolist()), rel=1e-4)


@pytest.mark.parametrize("size", [40, 200, 800])
def test_the_rank_of_a_rotated_matrix(size: int) -> None:
    """More eigenvalues than steps, falling off as those of networks do, of both signs."""
    generator = torch.Generator().manual_seed(size)
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=generator))
    values = torch.exp(-torch.arange(size) / 12.0) * torch.where(torch.rand(size, generator=generator) < 0.3, -1.0, 1.0)
    matrix = rotation @ torch.diag(values) @ rotation.T
    found = estimated_spectrum(lambda vector: matrix @ vector, size, CPU, probes=4, steps=120)
    assert float(found.counts.sum()) == pytest.approx(size)
    assert rank_of(found) == pytest.approx(rank_by_loops(values.tolist()), rel=0.15)


@pytest.mark.parametrize(
    ("values", "counts", "rank"),
    [
        ([3.0, -1.0], [1.0, 1.0], 1.7548),  # exp(-0.75 ln 0.75 - 0.25 ln 0.25)
        ([2.0, -2.0, 0.0], [1.0, 1.0, 5.0], 2.0),
        ([1.0], [6.5], 6.5),
        ([1.0, 1e-7], [1.0, 1e6], 1.0),  # a millionth of the largest counts as 0, however often
    ],
)
def test_ranks_by_hand(values: list[float], counts: list[float], rank: float) -> None:
    found = rank_of(Spectrum(torch.tensor(values).double(), torch.tensor(counts).double()))
    assert found == pytest.approx(rank, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "reason"), [([0.0, 0.0], "the loss has no curvature"), ([float("nan")], "the curvature is not finite")]
)
def test_ranks_that_do_not_exist(values: list[float], reason: str) -> None:
    found = rank_of(Spectrum(torch.tensor(values).double(), torch.ones(len(values)).double()))
    assert isinstance(found, Undefined)
    assert found.reason == reason


def test_a_network_that_is_too_large_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hessian, "MOST_ESTIMATED", 10)
    found: Any = measured("hessian_effective_rank", learner("linear"))
    assert isinstance(found, Undefined)
    assert found.reason == "the network has 12 parameters; the rank of the Hessian is estimated for up to 10"


def test_before_the_first_update_there_is_none() -> None:
    for name in ("hessian_trace", "hessian_effective_rank"):
        found: Any = measured(name, learner("linear", updates=0))
        assert isinstance(found, Undefined)
        assert found.reason == "nothing has been learned yet"
