from math import exp, log

import pytest
import torch
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import LabelledBatch, SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.log_values import Matrix
from plasticity.metrics.measures.gradients import (
    aligned_fraction,
    clustered,
    cosines,
    eigenvalues,
    gram_of,
    loss_gram,
    mean_cosine,
    opposed_fraction,
    tangent_gram,
)
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import view_part
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings


def learner(**spec: object) -> SupervisedLearner:
    builder = PartBuilder(MLPSpec(**spec), (2,), torch.float32, OptimizerSettings("sgd", 0.0))  # type: ignore[arg-type]
    return SupervisedLearner(SupervisedSettings(), 1, False, builder)


def linear() -> SupervisedLearner:
    """y = w . x + b with w = (1, 2) and b = 0; squared error, half or not as the agent has it."""
    agent = learner(widths=[])
    with torch.no_grad():
        agent.learner.network.tensor("head.linear.weight").copy_(torch.tensor([[1.0, 2.0]]))
        agent.learner.network.tensor("head.linear.bias").zero_()
    return agent


INPUTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])


def test_gram_of_outputs_by_hand() -> None:
    # The gradient of w . x + b is (x, 1): inner products x . x' + 1.
    agent = linear()
    view = view_part("learner", agent.learner, INPUTS)
    gram = tangent_gram(view)
    assert isinstance(gram, Tensor)
    assert gram.tolist() == [[2.0, 1.0, 3.0], [1.0, 2.0, 1.0], [3.0, 1.0, 5.0]]
    assert gram.dtype == torch.float64


def test_gradients_of_the_losses_of_single_examples_by_hand() -> None:
    # Errors 1 - 0, 2 - 5 and 2 - 2: the gradients are 2 e (x, 1) times a factor of the loss; the third is 0.
    agent = linear()
    targets = torch.tensor([[0.0], [5.0], [2.0]])
    agent.learn(Experience(Examples(INPUTS, targets), 0))
    gram = loss_gram(view_part("learner", agent.learner, None))
    assert isinstance(gram, Tensor)
    scale = float(gram[0, 0]) / 2
    assert (gram / scale).tolist() == [[2.0, -3.0, 0.0], [-3.0, 18.0, 0.0], [0.0, 0.0, 0.0]]
    matrix = cosines(gram)
    assert isinstance(matrix, Tensor)
    assert matrix.tolist() == [pytest.approx([1.0, -0.5]), pytest.approx([-0.5, 1.0])]


def test_mean_of_the_gradients_is_the_gradient_of_the_batch() -> None:
    agent = learner(widths=[5], normalisation=["batch"])
    generator = torch.Generator().manual_seed(0)
    batch = LabelledBatch(torch.randn(12, 2, generator=generator), torch.randn(12, 1, generator=generator))
    agent.learn(Experience(Examples(*batch), 0))
    gram = loss_gram(view_part("learner", agent.learner, None))
    assert isinstance(gram, Tensor)
    network, objective = agent.learner.network.eval(), agent.learner.examples.objective
    assert objective is not None
    whole = torch.autograd.grad(objective(network(batch.inputs), batch)[0], list(network.parameters()))
    assert float(gram.mean()) == pytest.approx(sum(float(gradient.square().sum()) for gradient in whole), rel=1e-4)


def test_gradients_of_parameters_stay() -> None:
    agent = linear()
    agent.learn(Experience(Examples(INPUTS, torch.ones(3, 1)), 0))
    before = [parameter.grad for parameter in agent.learner.network.parameters()]
    values = [value.clone() for value in before if value is not None]
    with torch.no_grad():
        loss_gram(view_part("learner", agent.learner, INPUTS))
    assert all(parameter.grad is old for parameter, old in zip(agent.learner.network.parameters(), before, strict=True))
    assert all(torch.equal(old, value) for old, value in zip(before, values, strict=True) if old is not None)


def test_large_grams_are_added_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    network = learner(widths=[7]).learner.network.eval()
    inputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    whole = gram_of(network, lambda row: network(inputs[row : row + 1]).sum(), 4)
    monkeypatch.setattr("plasticity.metrics.measures.gradients._CHUNK", 3)
    assert torch.allclose(gram_of(network, lambda row: network(inputs[row : row + 1]).sum(), 4), whole, rtol=1e-12)


MATRIX = torch.tensor([[1.0, 0.95, -0.2], [0.95, 1.0, 0.0], [-0.2, 0.0, 1.0]], dtype=torch.float64)


def test_summaries_by_hand() -> None:
    assert mean_cosine(MATRIX) == pytest.approx(0.25)
    assert aligned_fraction(MATRIX) == pytest.approx(1 / 3)
    assert opposed_fraction(MATRIX) == pytest.approx(1 / 3)


def test_clusters_lie_side_by_side() -> None:
    # Two blocks of four and three, shuffled.
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0])
    matrix = (labels.unsqueeze(0) == labels.unsqueeze(1)).double()
    order = clustered(matrix)
    assert order == [0, 2, 4, 6, 1, 3, 5]
    ordered = matrix[order][:, order]
    blocks = torch.block_diag(torch.ones(4, 4), torch.ones(3, 3)).double()
    assert torch.equal(ordered, blocks)
    noisy = matrix + 0.01 * torch.rand(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert clustered(noisy) == clustered(noisy)
    assert sorted(clustered(noisy)) == list(range(7))


def test_eigenvalues_by_hand() -> None:
    assert eigenvalues(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)).tolist() == pytest.approx([3.0, 1.0])
    assert eigenvalues(torch.ones(3, 3, dtype=torch.float64)).tolist() == pytest.approx([3.0, 0.0, 0.0])


def test_entries_by_hand() -> None:
    # The kernel [[2, 1], [1, 2]] of the first two inputs has the eigenvalues 3 and 1.
    agent = linear()
    agent.learn(Experience(Examples(INPUTS[:2], torch.tensor([[0.0], [5.0]])), 0))
    view = view_part("learner", agent.learner, INPUTS[:2])
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    expected = {"": exp(entropy), "/learner": exp(entropy)}
    assert CATALOGUE["ntk_effective_rank"].measure([view]) == pytest.approx(expected)
    assert CATALOGUE["ntk_srank"].measure([view]) == {"": 2.0, "/learner": 2.0}
    assert CATALOGUE["gradient_cosine"].measure([view]) == pytest.approx({"": -0.5, "/learner": -0.5})
    assert CATALOGUE["gradient_cosine_below_0"].measure([view])[""] == 1.0
    assert CATALOGUE["gradient_cosine_above_0.9"].measure([view])[""] == 0.0
    # [[2, -3], [-3, 18]]: trace 20 and determinant 27.
    high = 10 + (100 - 27) ** 0.5
    shares = [high / 20, 1 - high / 20]
    entropy = -sum(share * log(share) for share in shares)
    assert CATALOGUE["gradient_effective_rank"].measure([view])[""] == pytest.approx(exp(entropy))
    image = CATALOGUE["gradient_cosine_matrix"].measure([view])["/learner"]
    assert isinstance(image, Matrix)
    assert image.values.tolist() == [pytest.approx([1.0, -0.5]), pytest.approx([-0.5, 1.0])]
    assert (list(image.names), sorted(image.order)) == (["0", "1"], [0, 1])


def test_the_matrix_is_in_raw_order_with_the_examples_that_have_a_gradient() -> None:
    """Errors 1, 0, -3 and 1: of the gradients 2 e (x, 1) the second is 0, and the first and last are the same."""
    agent = linear()
    inputs = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    agent.learn(Experience(Examples(inputs, torch.tensor([[0.0], [2.0], [5.0], [0.0]])), 0))
    matrix = CATALOGUE["gradient_cosine_matrix"].measure([view_part("learner", agent.learner, inputs)])["/learner"]
    assert isinstance(matrix, Matrix)
    assert list(matrix.names) == ["0", "2", "3"]
    torch.testing.assert_close(matrix.values, torch.tensor([[1, -0.5, 1], [-0.5, 1, -0.5], [1, -0.5, 1]]).double())
    assert sorted(matrix.order) == [0, 1, 2]
    assert matrix.order[1] != 1  # the two that agree are side by side in the picture


def test_reasons() -> None:
    names = [name for name in CATALOGUE if name.startswith(("gradient_cosine", "gradient_effective", "sharpness"))]
    agent = linear()
    nothing = {name: CATALOGUE[name].measure([view_part("learner", agent.learner, INPUTS)])["/learner"] for name in names}
    assert {value.reason for value in nothing.values() if isinstance(value, Undefined)} == {"nothing has been learned yet"}
    assert all(isinstance(value, Undefined) for value in nothing.values())
    builder = PartBuilder(MLPSpec(), (2,), torch.float32, OptimizerSettings())
    part = view_part("actor", builder("actor", HeadSpec("gaussian", 1)), INPUTS)
    for name in names:
        value = CATALOGUE[name].measure([part])["/actor"]
        assert isinstance(value, Undefined)
        assert value.reason == "the part's loss is not a function of its outputs alone"
    same = torch.zeros(3, 3, dtype=torch.float64)
    assert isinstance(cosines(same), Undefined)
    assert isinstance(cosines(same * float("nan")), Undefined)


def test_a_part_without_a_value_is_left_out_of_the_mean() -> None:
    agent = linear()
    agent.learn(Experience(Examples(INPUTS[:2], torch.tensor([[0.0], [5.0]])), 0))
    builder = PartBuilder(MLPSpec(), (2,), torch.float32, OptimizerSettings())
    views = [
        view_part("actor", builder("actor", HeadSpec("gaussian", 1)), INPUTS),
        view_part("critic", agent.learner, INPUTS),
    ]
    assert CATALOGUE["gradient_cosine"].measure(views)[""] == pytest.approx(-0.5)
