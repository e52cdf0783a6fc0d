import numpy as np
import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.log_values import Matrix
from plasticity.metrics.measures.gradients import nullspace_ratio, tangent_gram
from plasticity.metrics.measures.update_signs import gradient_moves, sign_agreement
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import view_part
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings


def test_agreement_by_hand() -> None:
    # All up; three of four down; never moved.
    moves = torch.tensor([[1.0, -1.0, 0.0], [2.0, -1.0, 0.0], [1.0, -3.0, 0.0], [1.0, 1.0, 0.0]])
    assert sign_agreement(moves).tolist() == [1.0, 0.75, 0.0]


@pytest.mark.parametrize(("n", "widths"), [(20, [4]), (30, [7, 5]), (64, [16, 8, 4])])
def test_moves_equal_finite_differences_and_products_with_the_gradient(n: int, widths: list[int]) -> None:
    builder = PartBuilder(MLPSpec(widths=widths, activations=["tanh"]), (3,), torch.float64, OptimizerSettings("sgd", 0.0))
    agent = SupervisedLearner(SupervisedSettings(), 3, True, builder)
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randn(n, 3, generator=generator)
    agent.learn(Experience(Examples(inputs, torch.randint(3, (n,), generator=generator)), 0))
    view, network = view_part("learner", agent.learner, inputs), agent.learner.network
    moves = gradient_moves(view)
    assert not isinstance(moves, Undefined)
    batch, objective = agent.learner.examples.latest(64), agent.learner.examples.objective
    assert batch is not None
    assert objective is not None
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(objective(network(batch.inputs).float(), batch)[0], parameters)
    by_name = dict(zip(dict(network.named_parameters()), gradients, strict=True))
    path = "torso.layers.dense_1.linear"
    first = -(inputs.numpy() @ by_name[f"{path}.weight"].numpy().T + by_name[f"{path}.bias"].numpy())
    assert moves["dense_1"].numpy() == pytest.approx(first, rel=1e-4, abs=1e-7)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(1e-2 * gradient)
    after = view_part("learner", agent.learner, inputs)
    for before, now in zip(view.layers, after.layers, strict=True):
        assert moves[before.name].numpy() == pytest.approx(((now.pre - before.pre) / 1e-2).numpy(), rel=5e-2, abs=2e-3)
    uniform = [float((sign_agreement(moves[layer.name]) == 1).float().sum()) for layer in view.layers]
    assert float(CATALOGUE["uniform_update_fraction"].measure([view])[""]) == pytest.approx(sum(uniform) / sum(widths))  # type: ignore[arg-type]
    assert 0.5 <= float(CATALOGUE["update_sign_agreement"].measure([view])[""]) <= 1  # type: ignore[arg-type]
    kernel = CATALOGUE["ntk_matrix"].measure([view])["/learner"]
    assert isinstance(kernel, Matrix)
    assert torch.equal(kernel.values, tangent_gram(view))  # type: ignore[arg-type]
    assert 0 <= float(CATALOGUE["nullspace_ratio"].measure([view])[""]) < 1  # type: ignore[arg-type]


def test_nullspace_by_hand() -> None:
    # (1, 0), (0, 2), (3, 0) and 0: rank 2 of 4.
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert nullspace_ratio(rows @ rows.T) == 0.5
    assert isinstance(nullspace_ratio(torch.zeros(3, 3)), Undefined)


@pytest.mark.parametrize(("n", "rank", "d"), [(5, 2, 9), (20, 20, 40), (50, 7, 300)])
def test_nullspace_equals_the_rank_of_rows_of_length_1(n: int, rank: int, d: int) -> None:
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, rank, generator=generator).double() @ torch.randn(rank, d, generator=generator).double()
    unit = rows.numpy() / np.linalg.norm(rows.numpy(), axis=1, keepdims=True)
    sigma = np.linalg.svd(unit, compute_uv=False)
    assert nullspace_ratio(rows @ rows.T) == pytest.approx(1 - np.linalg.matrix_rank(unit, tol=1e-5 * sigma[0]) / n)
