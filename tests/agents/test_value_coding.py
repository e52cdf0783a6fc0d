import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agents.losses import hl_gauss, two_hot
from agents.ppo_settings import PPOSettings
from agents.sac import SACSettings
from agents.value_coding import CODINGS, ValueCoding, ValueSettings
from networks.spec import HeadSpec

ATOMS = torch.linspace(-2, 4, 7)


def coding(kind: str, smoothing: float = 0.0) -> ValueCoding:
    return ValueCoding(kind, 7, -2.0, 4.0, smoothing)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_heads() -> None:
    assert coding("huber").head("q", 3, 0.5) == HeadSpec("q", 3, gain=0.5)
    assert coding("hl_gauss").head("q", 3, 0.5) == HeadSpec("categorical", 3, 7, -2.0, 4.0, 0.5)
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
