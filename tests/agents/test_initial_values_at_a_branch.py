"""Methods that keep initial values, added where a run branches: those at the branch, or those that the run began with."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from plasticity.agents.part_origin import PartOrigin
from plasticity.agents.parts import PartBuilder
from plasticity.envs.experience import Examples
from plasticity.interventions.base import Intervention
from plasticity.interventions.methods.l2_init import l2_init_penalty
from plasticity.interventions.methods.wasserstein_init import wasserstein_penalty
from plasticity.interventions.reference import REFERENCES, RUN_INITIAL
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.updater import Updater

OPTIMIZER = OptimizerSettings("sgd", 1.0)
INITIAL, AT_BRANCH = 1.0, 3.0
# What a method needs so that it keeps initial values.
KEEPING: dict[str, dict[str, Any]] = {
    "l2_init": {},
    "wasserstein_init": {},
    "infer": {},
    "redo": {"incoming": "restore", "bias": "restore"},
    "weight_projection": {},
    "hyperspherical": {},
    "normalize_and_project": {},
}


def part(methods: Mapping[str, Mapping[str, Any]], origin: PartOrigin | None = None) -> Updater:
    """A part whose network has batch normalisation, and so has buffers, and layer normalisation."""
    make: dict[str, Callable[[], Intervention]] = {
        name: lambda name=name, values=values: INTERVENTIONS[name](**values)  # type: ignore[misc]
        for name, values in methods.items()
    }
    spec = MLPSpec(widths=[2], normalisation=["layer", "batch_mean"])
    builder = PartBuilder(spec, (2,), torch.float32, OPTIMIZER, make, seed=0, origin=None if origin is None else {"q": origin})
    return builder("q", HeadSpec("regression", 1))


@pytest.fixture
def parent() -> PartOrigin:
    """A run whose parameters were all 1 when it began, and are 3 where it is branched from."""
    made = part({})
    with torch.no_grad():
        for name, value in made.network.named_parameters():
            made.initial[name].fill_(INITIAL)
            value.fill_(AT_BRANCH)
        for buffer in made.network.buffers():
            buffer.fill_(5)
    return PartOrigin(made.state_dict(), OPTIMIZER)


def maps(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if "linear" in name}


@pytest.mark.parametrize(("reference", "displacement"), [("start", 0.0), ("run_initial", AT_BRANCH - INITIAL)])
def test_the_pull_of_l2_init_by_hand(reference: str, displacement: float, parent: PartOrigin) -> None:
    """Coefficient 0.25, p = 3, and p0 = 3 or 1: the term of an entry is 0 or 0.25 / 2 * 2^2, its gradient 0 or 0.25 * 2."""
    branch = part({"l2_init": {"coefficient": 0.25, "reference": reference}}, parent)
    state, weights = branch.interventions["l2_init"].state, maps(dict(branch.network.named_parameters()))
    count = sum(value.numel() for value in weights.values())
    assert count == 2 * 2 + 2 + 2 + 1
    assert l2_init_penalty(weights, state, 0.25).item() == pytest.approx(count * 0.125 * displacement**2)
    branch.step(branch.forward(torch.ones(2, 2)).sum() * 0.0, None)
    for value in weights.values():
        assert value.detach().flatten().tolist() == [AT_BRANCH - 0.25 * displacement] * value.numel()


@pytest.mark.parametrize(("reference", "displacement"), [("start", 0.0), ("run_initial", AT_BRANCH - INITIAL)])
def test_the_pull_of_wasserstein_init_by_hand(reference: str, displacement: float, parent: PartOrigin) -> None:
    """Without the factor 1/2: the term of an entry is 0 or 0.25 * (3 - 1)^2 = 1, its gradient 0 or 1."""
    branch = part({"wasserstein_init": {"coefficient": 0.25, "reference": reference}}, parent)
    state, weights = branch.interventions["wasserstein_init"].state, maps(dict(branch.network.named_parameters()))
    assert wasserstein_penalty(weights, state, 0.25).item() == pytest.approx(9 * 0.25 * displacement**2)
    branch.step(branch.forward(torch.ones(2, 2)).sum() * 0.0, None)
    for value in weights.values():
        assert value.detach().flatten().tolist() == [AT_BRANCH - 0.5 * displacement] * value.numel()


@pytest.mark.parametrize(("reference", "weight", "buffer"), [("start", AT_BRANCH, 5.0), ("run_initial", INITIAL, 0.0)])
def test_infer_has_the_whole_network_of_the_start_or_of_the_run(
    reference: str, weight: float, buffer: float, parent: PartOrigin
) -> None:
    branch = part({"infer": {"reference": reference}}, parent)
    state = branch.interventions["infer"].state
    kept = {name.removeprefix("network/"): value for name, value in state.items() if name.startswith("network/")}
    assert kept.keys() == branch.network.state_dict().keys()
    for name, _ in branch.network.named_parameters():
        assert kept[name].unique().tolist() == [weight]
    (mean,) = [value for name, value in kept.items() if name.endswith("running_mean")]
    assert mean.tolist() == [buffer] * 2  # a network that was just built has seen no inputs
    assert all((value == AT_BRANCH).all() for value in branch.network.parameters())


@pytest.mark.parametrize(
    ("name", "at_start", "of_run"),
    [
        ("weight_projection", AT_BRANCH * 2, INITIAL * 2),  # norms of 2 x 2 entries
        ("normalize_and_project", AT_BRANCH * 2, INITIAL * 2),
        ("hyperspherical", AT_BRANCH * 2**0.5, INITIAL * 2**0.5),  # lengths of rows of two
        ("redo", AT_BRANCH, INITIAL),
    ],
)
def test_norms_and_values_to_be_restored_by_hand(name: str, at_start: float, of_run: float, parent: PartOrigin) -> None:
    for reference, expected in zip(REFERENCES, (at_start, of_run), strict=True):
        branch = part({name: {**KEEPING[name], "reference": reference}}, parent)
        (kept,) = [value for key, value in branch.interventions[name].state.items() if key.endswith("dense_1.linear.weight")]
        assert kept.flatten().tolist() == pytest.approx([expected] * kept.numel())


@pytest.mark.parametrize("name", KEEPING)
def test_in_a_run_that_is_no_branch_both_are_the_same(name: str, same: Any) -> None:
    one, two = (part({name: {**KEEPING[name], "reference": reference}}) for reference in REFERENCES)
    for step in range(4):
        inputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(step))
        for each in (one, two):
            each.step(each.forward(inputs).square().mean() * 1e-3, Examples(inputs, torch.zeros(6, dtype=torch.int64)))
    assert same(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("name", KEEPING)
def test_a_branch_continues_from_its_own_checkpoint_with_what_it_kept(name: str, parent: PartOrigin, same: Any) -> None:
    methods = {name: {**KEEPING[name], "reference": RUN_INITIAL}}
    branch, resumed = part(methods, parent), part(methods)
    branch.load_state_dict({**parent.state, "trace": branch.trace.state_dict()})
    resumed.load_state_dict(branch.state_dict())
    assert same(resumed.interventions[name].state_dict(), branch.interventions[name].state_dict())
    assert same(resumed.network.state_dict(), branch.network.state_dict())


def test_a_branch_of_a_branch_has_what_the_first_run_began_with(parent: PartOrigin) -> None:
    first = part({}, parent)
    first.load_state_dict(parent.state)
    second = part({"l2_init": {"reference": RUN_INITIAL}}, PartOrigin(first.state_dict(), OPTIMIZER))
    assert all((value == INITIAL).all() for value in second.interventions["l2_init"].state.values())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("l2_init", {"reference": "parent"}, r"l2_init\.reference=parent is unknown.*; choose from start, run_initial"),
        (
            "l2_init",
            {"reference": "run_initial", "towards": "fresh"},
            r"l2_init\.reference=run_initial is unknown; choose from start",
        ),
        ("redo", {"reference": "run_initial"}, r"redo\.reference=run_initial is unknown; choose from start"),
    ],
)
def test_settings_are_checked(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        INTERVENTIONS[name](**settings)
