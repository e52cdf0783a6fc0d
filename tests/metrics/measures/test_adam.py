from math import log, sqrt

import pytest
import torch

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.measures.adam import cosine_of, moment_sums, step_sizes
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView, view_part
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

NAMES = ("adam_step", "adam_tiny_fraction", "effective_learning_rate")


def part(optimizer: str = "adam", **settings: float) -> Updater:
    builder = PartBuilder(MLPSpec(widths=[]), (2,), torch.float32, OptimizerSettings(optimizer, 0.5, **settings))  # type: ignore[arg-type]
    return builder("q", HeadSpec("regression", 1))


def test_sums_by_hand() -> None:
    # After two steps of betas 0.5 and 0.75: corrections 0.75 and 0.4375. m = 3 and 0, v = 4 and 0, eps 1.
    group = {"betas": (0.5, 0.75), "eps": 1.0, "lr": 6.0}
    sums = step_sizes(torch.tensor([2.25, 0.0]), torch.tensor([1.75, 0.0]), 2.0, group)
    assert sums.tolist() == pytest.approx([2.0, 3 / 3, 1.0, log(6 / 3) + log(6 / 1)])


def test_one_step_has_the_size_of_the_learning_rate() -> None:
    # After one step m = g and v = g^2, for any betas: |m| / sqrt(v) is 1. The gradient is (3, 4), and 1 for the bias.
    learned = part()
    learned.step(learned.forward(torch.tensor([[3.0, 4.0]])).sum(), None)
    views = [view_part("q", learned, None)]
    values = {name: {key: float(value) for key, value in CATALOGUE[name].measure(views).items()} for name in NAMES}  # type: ignore[arg-type]
    assert values["adam_step"] == pytest.approx({"": 1.0, "/q/head": 1.0}, rel=1e-4)
    assert set(values["adam_tiny_fraction"].values()) == {0.0}
    assert values["effective_learning_rate"][""] == pytest.approx(0.5 / (3 * 4 * 1) ** (1 / 3), rel=1e-4)


def test_entries_without_a_gradient_are_tiny() -> None:
    learned = part()
    learned.step(learned.forward(torch.tensor([[3.0, 0.0]])).sum(), None)
    values = CATALOGUE["adam_tiny_fraction"].measure([view_part("q", learned, None)])
    assert float(values[""]) == pytest.approx(1 / 3)  # type: ignore[arg-type]


def test_a_spike_shows() -> None:
    # After many gradients of 1 one of 100: m = 1 + 9.9 and v = 1 + 10 with betas 0.9 and 0.999, so 10.9 / sqrt(11).
    learned = part()
    for scale in [1.0] * 2000 + [100.0]:
        learned.step(learned.forward(torch.ones(1, 2)).sum() * scale, None)
    values = CATALOGUE["adam_step"].measure([view_part("q", learned, None)])
    assert float(values[""]) == pytest.approx(10.9 / sqrt(11), rel=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_other_optimizers_have_no_such_moments(name: str) -> None:
    for learned in (part("sgd"), part()):
        if learned.optimizer.__class__.__name__ == "SGD":
            learned.step(learned.forward(torch.ones(1, 2)).sum(), None)
        value = CATALOGUE[name].measure([view_part("q", learned, None)])[""]
        assert isinstance(value, Undefined)
        assert value.reason == "the optimizer has no moments like Adam's, or has made no step yet"


# The first moment and the gradient


def test_cosines_by_hand() -> None:
    # Moments (3, 4) and 5, gradients (4, 3) and -5: products 24 and -25, all lengths 5.
    parameters = [torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)]
    optimizer = torch.optim.Adam(parameters)
    for parameter, moment in zip(parameters, ([3.0, 4.0], [5.0]), strict=True):
        optimizer.state[parameter]["exp_avg"] = torch.tensor(moment)
    gradients = [torch.tensor([4.0, 3.0]), torch.tensor([-5.0])]
    first, second = (moment_sums(optimizer, parameters[k : k + 1], gradients[k : k + 1]) for k in range(2))
    both = moment_sums(optimizer, parameters, gradients)
    assert isinstance(first, torch.Tensor)
    assert isinstance(second, torch.Tensor)
    assert isinstance(both, torch.Tensor)
    assert cosine_of(first) == pytest.approx(24 / 25)
    assert cosine_of(second) == -1.0
    assert cosine_of(both) == pytest.approx(-1 / 50)


@pytest.mark.parametrize(
    ("sums", "reason"),
    [
        ([0.0, 0.0, 1.0], "the moment is 0"),
        ([0.0, 1.0, 0.0], "the gradient is 0"),
        ([float("nan"), 1.0, 1.0], "the gradient is not finite"),
    ],
)
def test_where_there_is_no_cosine(sums: list[float], reason: str) -> None:
    value = cosine_of(torch.tensor(sums))
    assert isinstance(value, Undefined)
    assert value.reason == reason


def regression(optimizer: str = "adam", widths: tuple[int, ...] = (), rate: float = 0.0) -> SupervisedLearner:
    settings = OptimizerSettings(optimizer, rate, momentum=0.5)
    builder = PartBuilder(MLPSpec(widths=list(widths)), (2,), torch.float32, settings)
    agent = SupervisedLearner(SupervisedSettings(), 1, False, builder)
    if not widths:
        with torch.no_grad():
            for parameter in agent.learner.network.parameters():
                parameter.zero_()
    return agent


def learn(agent: SupervisedLearner, *inputs: list[float]) -> PartView:
    agent.learn(Experience(Examples(torch.tensor(inputs), torch.full((len(inputs), 1), -0.5)), 0))
    return view_part("learner", agent.learner, None)


def test_moment_and_gradient_of_a_linear_map() -> None:
    # At w = b = 0 the error of target -1/2 is 1/2, and the gradient is (x, 1). Of x = (3, 4) moment and gradient are parallel.
    # Then x = (4, -3): the moment is along 0.9 (3, 4, 1) + (4, -3, 1) = (6.7, 0.6, 1.9), the gradient of both examples along
    # (7, 1, 2).
    agent = regression()
    measure = CATALOGUE["moment_gradient_cosine"].measure
    assert measure([learn(agent, [3.0, 4.0])]) == pytest.approx({"": 1.0, "/learner/head": 1.0})
    expected = (46.9 + 0.6 + 3.8) / sqrt((44.89 + 0.36 + 3.61) * (49 + 1 + 4))
    assert measure([learn(agent, [4.0, -3.0])]) == pytest.approx({"": expected, "/learner/head": expected})


def test_moment_and_gradient_against_a_computation_of_its_own() -> None:
    agent = regression(widths=(4,), rate=0.5)
    view = learn(agent, [1.0, 2.0], [-1.0, 0.5])
    view = learn(agent, [0.3, -1.0], [2.0, 1.0])
    network, optimizer = agent.learner.network, agent.learner.optimizer
    batch = agent.learner.examples.latest(64)
    assert batch is not None
    assert len(batch.inputs) == 4
    gradients = torch.autograd.grad((network(batch.inputs) - batch[1]).square().mean(), list(network.parameters()))
    moments = [optimizer.state[parameter]["exp_avg"] for parameter in network.parameters()]
    found = {key: float(value) for key, value in CATALOGUE["moment_gradient_cosine"].measure([view]).items()}  # type: ignore[arg-type]
    for key, own in {"": slice(0, 4), "/learner/dense_1": slice(0, 2), "/learner/head": slice(2, 4)}.items():
        m, g = (torch.cat([tensor.flatten() for tensor in tensors[own]]) for tensors in (moments, gradients))
        assert found[key] == pytest.approx(float(torch.cosine_similarity(m, g, dim=0)), rel=1e-5)
    assert abs(found["/learner/dense_1"] - found["/learner/head"]) > 0.01


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "soap", "kron", "shampoo"])
def test_optimizers_without_a_first_moment_of_the_gradient(name: str) -> None:
    value = CATALOGUE["moment_gradient_cosine"].measure([learn(regression(name, (4,), 0.01), [1.0, 2.0])])
    assert value.keys() == {""}
    assert isinstance(value[""], Undefined)
    assert value[""].reason == "the optimizer has no first moment like Adam's, or has made no step yet"


def test_before_the_first_step_there_is_no_moment() -> None:
    agent = regression()
    view = learn(agent, [1.0, 2.0])
    agent.learner.optimizer.state.clear()
    assert isinstance(CATALOGUE["moment_gradient_cosine"].measure([view])[""], Undefined)
