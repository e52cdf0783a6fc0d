import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.measures.sharpness import Sharpness, dominant_eigenvalue, extreme_eigenvalues, sharpness
from plasticity.metrics.view import view_part
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings

START = torch.tensor([1.0, 1.0, 1.0])


def diagonal(*values: float) -> torch.Tensor:
    return torch.diag(torch.tensor(values))


@pytest.mark.parametrize(
    ("values", "magnitude", "largest"),
    [((4.0, 1.0, -2.0), 4.0, 4.0), ((-5.0, 3.0, 1.0), -5.0, 3.0), ((-3.0, -2.0, -1.0), -3.0, -1.0), ((0.0, 0.0, 0.0), 0.0, 0.0)],
)
def test_both_ends_of_the_spectrum(values: tuple[float, ...], magnitude: float, largest: float) -> None:
    found = extreme_eigenvalues(lambda vector: diagonal(*values) @ vector, START)
    assert found == pytest.approx(Sharpness(magnitude, largest), rel=2e-3)


def test_a_rotated_matrix() -> None:
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    matrix = rotation @ torch.diag(torch.tensor([7.0, 3.0, 1.0, 0.5, -1.0, -2.0])) @ rotation.T
    assert dominant_eigenvalue(lambda vector: matrix @ vector, torch.ones(6)) == pytest.approx(7.0, rel=1e-4)


def test_hessian_of_a_linear_regression() -> None:
    # The loss is the mean of (w x + b - y)^2 up to a factor c that the agent's loss has; its Hessian is 2 c times the mean of
    # (x, 1)(x, 1)^T: of x = 1 and -1 the identity, of x = 2 and 0 the matrix [[2, 1], [1, 1]].
    results = []
    for inputs in ([[1.0], [-1.0]], [[2.0], [0.0]]):
        builder = PartBuilder(MLPSpec(widths=[]), (1,), torch.float32, OptimizerSettings("sgd", 0.0))
        agent = SupervisedLearner(SupervisedSettings(), 1, False, builder)
        agent.learn(Experience(Examples(torch.tensor(inputs), torch.tensor([[3.0], [5.0]])), 0))
        with torch.no_grad():
            found = sharpness(view_part("learner", agent.learner, None))
        assert isinstance(found, Sharpness)
        results.append(found.largest)
    assert results[1] / results[0] == pytest.approx((3 + 5**0.5) / 2, rel=1e-3)
    assert results[0] in (pytest.approx(1.0, rel=1e-4), pytest.approx(2.0, rel=1e-4))


def test_against_the_whole_hessian() -> None:
    builder = PartBuilder(
        MLPSpec(widths=[4], activations=["tanh"], normalisation=["batch"]), (3,), torch.float32, OptimizerSettings("sgd", 0.1)
    )
    agent = SupervisedLearner(SupervisedSettings(), 3, True, builder)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        inputs, labels = torch.randn(20, 3, generator=generator), torch.randint(3, (20,), generator=generator)
        agent.learn(Experience(Examples(inputs, labels), 0))
    network, examples = agent.learner.network, agent.learner.examples
    found = sharpness(view_part("learner", agent.learner, None))
    assert isinstance(found, Sharpness)
    names = [name for name, _ in network.named_parameters()]
    values = tuple(parameter.detach() for parameter in network.parameters())
    batch, objective = examples.latest(64), examples.objective
    assert batch is not None
    assert objective is not None
    assert len(batch.inputs) == 60

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        network.eval()
        outputs = torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (batch.inputs,))
        return objective(outputs, batch)[0]

    blocks = torch.autograd.functional.hessian(loss, values)
    sizes = [value.numel() for value in values]
    rows = [torch.cat([b.reshape(size, -1) for b in row], 1) for row, size in zip(blocks, sizes, strict=True)]
    spectrum = torch.linalg.eigvalsh(torch.cat(rows).double())
    assert found.largest == pytest.approx(float(spectrum[-1]), rel=5e-3)
    assert abs(found.largest_magnitude) == pytest.approx(float(spectrum.abs().max()), rel=5e-3)
    values_now = CATALOGUE["sharpness"].measure([view_part("learner", agent.learner, None)])
    assert values_now[""] == values_now["/learner"] == found.largest
