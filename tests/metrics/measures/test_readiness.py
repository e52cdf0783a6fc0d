from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings
from plasticity.envs.experience import Examples, Experience
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.metrics.draws import Draws, DrawSettings
from plasticity.metrics.measures.readiness import SquaredNorms, readiness, reliability, squared_norms, strength
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import PartView, view_part
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.settings.seeding import torch_generator

SAMPLED = (
    "gradient_reliability",
    "gradient_strength",
    "optimization_readiness",
    "gradient_strength_fixed_smoothness",
    "optimization_readiness_fixed_smoothness",
)


def norms_of(*gradients: tuple[float, ...]) -> SquaredNorms:
    found = squared_norms(torch.tensor(gradients))
    assert isinstance(found, SquaredNorms)
    return found


def test_three_gradients_by_hand() -> None:
    # Mean (2/3, 2/3), squared 8/9; squares 1, 1 and 2, their mean 4/3. With L = 2 the strength is 4/9.
    norms = norms_of((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    assert norms == pytest.approx((8 / 9, 4 / 3))
    assert reliability(norms) == pytest.approx(0.6667, abs=5e-5)
    assert strength(norms, 2.0) == pytest.approx(0.4444, abs=5e-5)
    assert readiness(norms, 2.0) == pytest.approx(0.2963, abs=5e-5)


def test_equal_and_orthogonal_and_opposed_gradients() -> None:
    assert reliability(norms_of((3.0, 4.0), (3.0, 4.0))) == 1.0
    assert reliability(norms_of((2.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 2.0))) == pytest.approx(1 / 3)
    opposed = norms_of((3.0, 4.0), (-3.0, -4.0))
    assert (reliability(opposed), strength(opposed, 2.0), readiness(opposed, 2.0)) == (0.0, 0.0, 0.0)


def test_gradients_of_nothing_have_a_strength_and_no_reliability() -> None:
    nothing = norms_of((0.0, 0.0), (0.0, 0.0))
    assert strength(nothing, 2.0) == 0.0
    for value in (reliability(nothing), readiness(nothing, 2.0)):
        assert isinstance(value, Undefined)
        assert value.reason == "the gradient is 0"
    endless = squared_norms([torch.tensor([1.0, float("inf")])])
    assert isinstance(endless, Undefined)
    assert endless.reason == "the gradients are not finite"


# Of a part


def regression(inputs: list[list[float]], targets: list[list[float]]) -> SupervisedLearner:
    """A linear map whose weights are all 0, after an update of step size 0."""
    settings = OptimizerSettings("sgd", 0.0)
    agent = SupervisedLearner(
        SupervisedSettings(), 1, False, PartBuilder(MLPSpec(widths=[]), (len(inputs[0]),), torch.float32, settings)
    )
    agent.learn(Experience(Examples(torch.tensor(inputs), torch.tensor(targets)), 0))
    with torch.no_grad():
        for parameter in agent.learner.network.parameters():
            parameter.zero_()
    return agent


def classifier(optimizer: str = "sgd") -> SupervisedLearner:
    settings = OptimizerSettings(optimizer, 0.1)
    builder = PartBuilder(MLPSpec(widths=[5], activations=["tanh"]), (3,), torch.float32, settings)
    agent = SupervisedLearner(SupervisedSettings(), 4, True, builder)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        inputs, labels = torch.randn(10, 3, generator=generator), torch.randint(4, (10,), generator=generator)
        agent.learn(Experience(Examples(inputs, labels), 0))
    return agent


def view_of(agent: SupervisedLearner, seed: int = 0, **settings: Any) -> PartView:
    return view_part("learner", agent.learner, None, draws=Draws(DrawSettings(**settings), seed))


def measured(name: str, agent: SupervisedLearner, seed: int = 0, **settings: Any) -> dict[str, float]:
    with torch.no_grad():
        return dict(CATALOGUE[name].measure([view_of(agent, seed, **settings)]))  # type: ignore[arg-type]


def test_equal_examples_by_hand() -> None:
    # The loss (w x + b - y)^2 of x = 1, y = 3 at w = b = 0 has the gradient (-6, -6), squared 72, in every minibatch; its
    # Hessian 2 [[1, 1], [1, 1]] has the eigenvalue 4.
    agent = regression([[1.0]] * 6, [[3.0]] * 6)
    expected = {
        "gradient_reliability": 1.0,
        "gradient_strength": 18.0,
        "optimization_readiness": 18.0,
        "gradient_strength_fixed_smoothness": 36.0,
        "optimization_readiness_fixed_smoothness": 36.0,
    }
    for name, value in expected.items():
        found = measured(name, agent, smoothness=2.0)
        assert found == pytest.approx({"": value, "/learner": value}, rel=1e-5), name


def by_hand(agent: SupervisedLearner, generator: torch.Generator, minibatches: int, size: int) -> tuple[float, float]:
    """|g|^2 and E|g_B|^2 of a network of one tanh layer, written out in float64."""
    batch = agent.learner.examples.latest(64)
    assert batch is not None
    weights = [parameter.detach().double().requires_grad_() for parameter in agent.learner.network.parameters()]
    inputs, labels = batch.inputs.double(), batch[1]
    gradients = []
    for _ in range(minibatches):
        rows = torch.randperm(len(inputs), generator=generator)[:size]
        hidden = torch.tanh(inputs[rows] @ weights[0].T + weights[1])
        loss = functional.cross_entropy(hidden @ weights[2].T + weights[3], labels[rows])
        gradients.append(torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, weights)]))
    together = torch.stack(gradients)
    return float(together.mean(0).square().sum()), float(together.square().sum(1).mean())


def largest_magnitude(agent: SupervisedLearner) -> float:
    """Of the eigenvalues of the whole Hessian on all examples."""
    network, batch = agent.learner.network, agent.learner.examples.latest(64)
    assert batch is not None
    names, values = zip(*((name, value.detach()) for name, value in network.named_parameters()), strict=True)

    def loss(*parameters: Tensor) -> Tensor:
        outputs = torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (batch.inputs,))
        return functional.cross_entropy(outputs, batch[1])

    blocks = torch.autograd.functional.hessian(loss, values)
    rows = [torch.cat([block.reshape(value.numel(), -1) for block in row], 1) for row, value in zip(blocks, values, strict=True)]
    return float(torch.linalg.eigvalsh(torch.cat(rows).double()).abs().max())


@pytest.mark.parametrize(("minibatches", "size", "drawn"), [(4, 6, 6), (3, 100, 15)])
def test_against_a_network_written_out(minibatches: int, size: int, drawn: int) -> None:
    # Of 30 examples a minibatch has 15 at the most.
    agent = classifier()
    settings = {"minibatches": minibatches, "minibatch_examples": size, "smoothness": 0.5, "repeats": 2}
    smoothness = largest_magnitude(agent)
    found = {name: measured(name, agent, 7, **settings) for name in SAMPLED}
    for repeat in range(2):
        of_mean, mean = by_hand(agent, torch_generator(7, "readiness", repeat), minibatches, drawn)
        assert 0.01 < of_mean / mean < 0.99
        values = {name: own[f"_repeat_{repeat}"] for name, own in found.items()}
        assert values["gradient_reliability"] == pytest.approx(of_mean / mean, rel=1e-4)
        assert values["gradient_strength_fixed_smoothness"] == pytest.approx(of_mean / 0.5, rel=1e-4)
        assert values["optimization_readiness_fixed_smoothness"] == pytest.approx(of_mean**2 / mean / 0.5, rel=1e-4)
        assert values["gradient_strength"] == pytest.approx(of_mean / smoothness, rel=5e-3)
        assert values["optimization_readiness"] == pytest.approx(of_mean**2 / mean / smoothness, rel=5e-3)


@pytest.mark.parametrize("name", [*SAMPLED, "k_step_gain"])
def test_repeats_are_logged_one_by_one_and_their_mean(name: str) -> None:
    agent = classifier()
    once, thrice = (measured(name, agent, repeats=repeats) for repeats in (1, 3))
    assert once.keys() == {"", "/learner"}
    assert thrice.keys() == {"", "/learner", *(f"_repeat_{k}{suffix}" for k in range(3) for suffix in ("", "/learner"))}
    each = [thrice[f"_repeat_{k}"] for k in range(3)]
    assert each == [thrice[f"_repeat_{k}/learner"] for k in range(3)]
    assert len(set(each)) == 3
    assert thrice[""] == thrice["/learner"] == pytest.approx(sum(each) / 3)
    assert once[""] == each[0]
    assert measured(name, agent, seed=1)[""] != once[""]


@pytest.mark.parametrize("name", [*SAMPLED, "k_step_gain", "moment_gradient_cosine"])
def test_nothing_is_left_behind(name: str, same: Callable[[Any, Any], bool]) -> None:
    agent = classifier("adam")
    before, modes = deepcopy(agent.learner.state_dict()), [module.training for module in agent.learner.network.modules()]
    gradients = [parameter.grad for parameter in agent.learner.network.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = measured(name, agent, repeats=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert measured(name, agent, repeats=2) == first
    assert same(agent.learner.state_dict(), before)
    assert [module.training for module in agent.learner.network.modules()] == modes
    assert all(old is new.grad for old, new in zip(gradients, agent.learner.network.parameters(), strict=True))


# What cannot be measured


@pytest.mark.parametrize("name", [*SAMPLED, "k_step_gain"])
def test_one_example_is_too_few(name: str) -> None:
    value = measured(name, regression([[1.0]], [[3.0]]))[""]
    assert isinstance(value, Undefined)
    assert value.reason == "fewer than 2 examples have been learned from"


@pytest.mark.parametrize("name", [*SAMPLED, "k_step_gain", "moment_gradient_cosine"])
def test_a_part_without_an_objective_or_an_example_has_no_value(name: str) -> None:
    builder = PartBuilder(MLPSpec(widths=[4]), (3,), torch.float32, OptimizerSettings())
    actor = view_part("actor", builder("actor", HeadSpec("gaussian", 1)), None)
    waiting = view_part("learner", SupervisedLearner(SupervisedSettings(), 4, True, builder).learner, None)
    reasons = ("the part's loss is not a function of its outputs alone", "nothing has been learned yet")
    for view, reason in zip((actor, waiting), reasons, strict=True):
        value = CATALOGUE[name].measure([view])[""]
        assert isinstance(value, Undefined)
        assert value.reason == reason
    both = CATALOGUE[name].measure([actor, view_of(classifier())])
    if name in SAMPLED:
        assert both[""] == both["/learner"] > 0  # type: ignore[operator]


def test_a_loss_that_is_learned_has_a_strength_of_0_and_no_readiness() -> None:
    agent = regression([[0.0]] * 4, [[0.0]] * 4)
    assert measured("gradient_strength", agent)[""] == 0.0
    value = measured("optimization_readiness", agent)[""]
    assert isinstance(value, Undefined)
    assert value.reason == "the gradient is 0"


def test_a_loss_without_curvature_has_no_estimate_of_its_smoothness() -> None:
    # The mean output of a linear map: the gradient by weight and bias is (1, 1), squared 2, and the Hessian is 0.
    agent = regression([[1.0]] * 4, [[0.0]] * 4)
    agent.learner.examples.objective = lambda outputs, batch: (outputs.mean(), {})
    for name in ("gradient_strength", "optimization_readiness"):
        value = measured(name, agent)[""]
        assert isinstance(value, Undefined)
        assert value.reason == "the loss has no curvature"
        assert measured(f"{name}_fixed_smoothness", agent, smoothness=4.0)[""] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("repeats", 0, "at least 1"),
        ("minibatches", 1, "at least 2"),
        ("minibatch_examples", 0, "at least 1"),
        ("smoothness", 0.0, "above 0"),
        ("gain_steps", 0, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: float, words: str) -> None:
    with pytest.raises(ValueError, match=f"^metrics.{setting}={value} must be {words}$"):
        DrawSettings(**{setting: value})  # type: ignore[arg-type]
