from collections.abc import Callable
from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.losses.targets import hl_gauss, smooth, td_targets, two_hot
from plasticity.agents.losses.value_coding import CODINGS, DECODINGS, ValueCoding, ValueSettings, categorical_support
from plasticity.agents.ppo.settings import PPOSettings
from plasticity.agents.sac.agent import SACSettings
from plasticity.networks.heads.output_heads import build_head
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec

ATOMS = torch.linspace(-2, 4, 7)


def coding(kind: str, smoothing: float = 0.0) -> ValueCoding:
    return ValueCoding(kind, 7, -2.0, 4.0, smoothing)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_heads() -> None:
    assert coding("huber").head("q", 3, 0.5) == HeadSpec("q", 3, gain=0.5)
    assert coding("hl_gauss").head("q", 3, 0.5) == HeadSpec("categorical", 3, 7, -2.0, 4.0, 0.5)
    assert coding("hl_gauss", 0.2).head("q", 3) == HeadSpec("categorical", 3, 7, -2.0, 4.0, label_smoothing=0.2)
    assert coding("pop_art").head("q", 3, 0.5) == HeadSpec("q", 3, gain=0.5, pop_art=True)
    assert coding("pop_art")._replace(deviation_low=0.1).head("value", 1) == HeadSpec("value", 1, pop_art=True, deviation_low=0.1)
    assert [coding(kind).categorical for kind in CODINGS] == [False, False, True, True, False]


@pytest.mark.parametrize("shape", [(5,), (5, 2), (1,), (1, 2)])
@pytest.mark.parametrize("kind", ["squared", "huber", "pop_art"])
def test_errors_of_scalars(kind: str, shape: tuple[int, ...]) -> None:
    outputs, targets = 3 * normal(*shape), 3 * normal(*shape, seed=1)
    difference = (outputs - targets).abs()
    expected = difference.square() if kind != "huber" else torch.where(difference < 1, difference.square() / 2, difference - 0.5)
    torch.testing.assert_close(coding(kind).errors(outputs, targets, None), expected)


def test_errors_of_a_categorical_compare_with_the_distribution_given() -> None:
    # Logits (0, log 3, 0) are (1/5, 3/5, 1/5). A half each at the first two atoms costs (log 5 + log 5/3) / 2.
    coded, atoms = ValueCoding("categorical", 3, 0.0, 2.0), torch.arange(3.0)
    logits = torch.tensor([[0.0, log(3), 0.0]])
    assert coded.errors(logits, torch.tensor([[0.5, 0.5, 0.0]]), atoms).tolist() == pytest.approx([(log(5) + log(5 / 3)) / 2])
    # A value of 0.5, all the mass of a distribution, is projected to those halves.
    assert coded.encode(torch.tensor([0.5]), atoms).tolist() == [[0.5, 0.5, 0.0]]
    over = coded.errors_over(atoms)
    assert over is not None
    assert over(logits, torch.tensor([0.5])).tolist() == pytest.approx([(log(5) + log(5 / 3)) / 2])


def test_c51_states_that_it_is_categorical() -> None:
    chosen = DQNSettings(loss="categorical", bins=7, value_low=-2.0, value_high=4.0, label_smoothing=0.2)
    assert (chosen.coding.kind, chosen.coding.categorical, chosen.coding.label_smoothing) == ("categorical", True, 0.0)
    assert chosen.coding.head("q", 3) == HeadSpec("categorical", 3, 7, -2.0, 4.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(5,), (5, 2), (1,), (1, 2)])
@pytest.mark.parametrize(("kind", "encode"), [("two_hot", two_hot), ("hl_gauss", hl_gauss)])
def test_errors_of_logits_are_cross_entropies(kind: str, encode: object, shape: tuple[int, ...], smoothing: float) -> None:
    outputs, targets = normal(*shape, 7), 3 * normal(*shape, seed=1)
    errors = coding(kind, smoothing).errors(outputs, targets, ATOMS)
    assert errors.shape == shape
    assert callable(encode)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in shape)).view(-1, len(shape)).tolist():
        place = tuple(index)
        wanted = (1 - smoothing) * encode(targets[place].view(1), ATOMS) + smoothing / 7
        torch.testing.assert_close(errors[place], functional.cross_entropy(outputs[place].view(1, 7), wanted))


def test_targets_spread_over_members_without_memory_of_their_own() -> None:
    # SAC's critics share one target: an expanded tensor.
    outputs, targets = normal(5, 2, 7), normal(5)
    errors = coding("hl_gauss").errors(outputs, targets.unsqueeze(1).expand(-1, 2), ATOMS)
    for member in range(2):
        torch.testing.assert_close(errors[:, member], coding("hl_gauss").errors(outputs[:, member], targets, ATOMS))


@pytest.mark.parametrize("settings", [PPOSettings, SACSettings])
def test_agents_of_a_value_pass_all_its_settings_on(settings: type[ValueSettings]) -> None:
    chosen = settings(
        value_loss="hl_gauss", bins=7, value_low=-2.0, value_high=4.0, label_smoothing=0.2, pop_art_deviation_low=0.5
    )
    assert chosen.coding == ValueCoding("hl_gauss", 7, -2.0, 4.0, 0.2, 0.5)
    with pytest.raises(ValueError, match=r"agent.label_smoothing=1.5 must be between 0 and 1"):
        settings(label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"agent.value_loss=l2 is unknown; choose from squared, huber"):
        settings(value_loss="l2")


# Decoding


WHOLE = {"kind": "two_hot", "bins": 201, "low": -100.0, "high": 100.0}
POSITIVE = {**WHOLE, "bins": 101, "low": 0.0}


def decoded(coded: ValueCoding, probabilities: Tensor, dueling: bool = False) -> Tensor:
    """What a head of this coding makes of categoricals, (B, Z)."""
    spec = replace(coded.head("q", 1), dueling=dueling)
    head = build_head(2, spec, MLPSpec())
    return head.decode(probabilities.log().unsqueeze(1)).squeeze(1)


def smoothed_target(coded: ValueCoding, value: Tensor) -> Tensor:
    atoms = torch.linspace(coded.low, coded.high, coded.bins)
    return smooth(two_hot(value, atoms), coded.label_smoothing)


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize(
    ("support", "value", "published"),
    [(WHOLE, 50.0, 45.0), (WHOLE, -37.25, -33.525), (WHOLE, 100.0, 90.0), (POSITIVE, 20.0, 23.0)],  # 0.9 v + 0.1 * mean
)
def test_a_smoothed_target_is_decoded_as_the_value_it_was_made_of(
    support: dict[str, Any], value: float, published: float, dueling: bool
) -> None:
    coded = ValueCoding(**support, label_smoothing=0.1)
    target = smoothed_target(coded, torch.tensor([value]))
    assert decoded(coded, target, dueling).item() == pytest.approx(value, abs=1e-3)
    assert decoded(coded._replace(decoding="published"), target, dueling).item() == pytest.approx(published, abs=1e-3)


def test_values_beyond_the_support_are_clamped_to_it() -> None:
    # All mass on the last atom: (100 - 0.1 * 0) / 0.9 = 111.1; on the first of 0 to 100: (0 - 0.1 * 50) / 0.9 = -5.6.
    ends = torch.eye(201)[[-1, 0]]
    assert decoded(ValueCoding(**WHOLE, label_smoothing=0.1), ends).tolist() == [100.0, -100.0]
    assert decoded(ValueCoding(**POSITIVE, label_smoothing=0.1), torch.eye(101)[[0]]).tolist() == [0.0]
    assert decoded(ValueCoding(**WHOLE, label_smoothing=0.1, decoding="published"), ends).tolist() == pytest.approx([100, -100])


@pytest.mark.parametrize(
    ("support", "decoding", "fixed_point"),
    [
        (WHOLE, "corrected", 100.0),
        (POSITIVE, "corrected", 100.0),
        (WHOLE, "published", 8.257),  # v = 0.9 (1 + 0.99 v)
        (POSITIVE, "published", 54.13),  # v = 0.9 (1 + 0.99 v) + 0.1 * 50
    ],
)
def test_a_reward_of_1_for_ever_is_worth_what_the_decoding_makes_of_it(
    support: dict[str, Any], decoding: str, fixed_point: float
) -> None:
    coded = ValueCoding(**support, label_smoothing=0.1, decoding=decoding)
    head = build_head(2, coded.head("q", 1), MLPSpec())
    atoms = torch.linspace(coded.low, coded.high, coded.bins)
    value, alive = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
    for _ in range(1500):
        target = smooth(two_hot(td_targets(torch.ones(1), alive, value, 0.99), atoms), coded.label_smoothing)
        value = head.decode(target.log().unsqueeze(1)).squeeze(1)
    assert value.item() == pytest.approx(fixed_point, rel=2e-4)


def test_without_smoothing_a_value_is_the_mean_to_the_last_bit() -> None:
    logits = 3 * normal(6, 2, 7)
    for decoding in DECODINGS:
        head = build_head(2, coding("two_hot")._replace(decoding=decoding).head("q", 2), MLPSpec())
        assert torch.equal(head.decode(logits), logits.softmax(-1) @ ATOMS)


def test_values_of_a_network_in_float64_are_not_rounded() -> None:
    head = build_head(2, coding("two_hot", 0.2).head("q", 1), MLPSpec()).double()
    assert head.decode(normal(4, 1, 7).double()).dtype == torch.float64
    assert head.decode(normal(4, 1, 7).bfloat16().double()).dtype == torch.float64


@pytest.mark.parametrize(("settings", "name"), [(DQNSettings, "loss"), (PPOSettings, "value_loss"), (SACSettings, "value_loss")])
def test_every_agent_states_how_it_decodes(settings: Callable[..., Any], name: str) -> None:
    chosen = {name: "two_hot", "label_smoothing": 0.1}
    assert settings(**chosen).coding.head("q", 1).label_smoothing == 0.1
    assert settings(**chosen, label_smoothing_decoding="published").coding.head("q", 1).label_smoothing == 0
    with pytest.raises(ValueError, match=r"^agent.label_smoothing_decoding=no is unknown; choose from corrected, published$"):
        settings(**chosen, label_smoothing_decoding="no")
    with pytest.raises(ValueError, match=r"^agent.label_smoothing=1.0 leaves no value .*; it must be less than 1$"):
        settings(label_smoothing=1.0)
    settings(label_smoothing=1.0, label_smoothing_decoding="published")


# Support


@pytest.mark.parametrize(("settings", "name"), [(DQNSettings, "loss"), (PPOSettings, "value_loss"), (SACSettings, "value_loss")])
@pytest.mark.parametrize(("discount", "bins"), [(0.0, 3), (0.9, 21), (0.99, 201), (0.97, 69), (0.995, 401), (0.5, 5)])
def test_atoms_are_the_whole_numbers_that_returns_can_reach(
    settings: Callable[..., Any], name: str, discount: float, bins: int
) -> None:
    for loss, more in (("two_hot", 0), ("hl_gauss", 2)):
        made = settings(discount=discount, **{name: loss})
        reach = (bins - 1) / 2 + more
        assert (made.bins, made.value_low, made.value_high) == (bins + 2 * more, -reach, reach)
        assert made.coding[1:4] == (bins + 2 * more, -reach, reach)
    scalar = settings(discount=discount, **{name: "squared"})
    assert (scalar.bins, scalar.value_low, scalar.value_high) == (None, None, None)


def test_c51_without_numbers_of_its_own_has_them_too() -> None:
    made = DQNSettings(loss="categorical", discount=0.9)
    assert (made.bins, made.value_low, made.value_high) == (21, -10.0, 10.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((11, None, None), (11, -10.0, 10.0)),
        ((None, 0.0, None), (11, 0.0, 10.0)),
        ((None, None, 2.5), (14, -10.0, 2.5)),  # no whole number apart: 13 intervals of 0.96
        ((None, -0.1, 0.2), (2, -0.1, 0.2)),
        ((51, -3.0, 4.0), (51, -3.0, 4.0)),
    ],
)
def test_what_is_given_stays(given: tuple[int | None, float | None, float | None], expected: tuple[int, float, float]) -> None:
    assert categorical_support("two_hot", 0.9, *given) == expected


def test_the_largest_return_keeps_its_mean_under_hl_gauss() -> None:
    # The bell around 1 reaches past 1.5: on the atoms -1, 0, 1 alone its mean is 0.72.
    for discount in (0.0, 0.9):
        made = DQNSettings(loss="hl_gauss", discount=discount).coding
        atoms, largest = torch.linspace(made.low, made.high, made.bins), torch.tensor([made.high - 2, made.low + 2])
        torch.testing.assert_close(hl_gauss(largest, atoms) @ atoms, largest, rtol=0, atol=3e-3)
    alone = torch.linspace(-1, 1, 3)
    assert (hl_gauss(torch.ones(1), alone) @ alone).item() < 0.75


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1, None, None), r"agent.bins=1 must be at least 2"),
        ((None, 5.0, 5.0), r"agent.value_low=5.0 must be less than agent.value_high=5.0, and both finite"),
        ((None, 200.0, None), r"agent.value_low=200.0 must be less than agent.value_high=100.0, and both finite"),
        ((None, None, float("inf")), r"agent.value_low=-100.0 must be less than agent.value_high=inf, and both finite"),
        ((None, None, 1e9), r"agent.bins=null makes 1000000101 atoms from agent.value_low=-100 to agent.value_high=1e\+09"),
    ],
)
def test_supports_that_make_no_sense_are_refused(given: tuple[int | None, float | None, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        categorical_support("two_hot", 0.99, *given)
    bins, low, high = given
    if high != float("inf"):  # which no setting may be
        DQNSettings(loss="squared", bins=bins, value_low=low, value_high=high)  # nothing reads them


def test_a_discount_close_to_1_must_ask_for_its_atoms() -> None:
    with pytest.raises(ValueError, match=r"makes 2000001 atoms .* at agent.discount=0.999999; set agent.bins"):
        DQNSettings(loss="two_hot", discount=0.999999, value_low=-1e6, value_high=1e6)
    assert DQNSettings(loss="two_hot", discount=0.999999, bins=201, value_high=5.0).coding[1] == 201
