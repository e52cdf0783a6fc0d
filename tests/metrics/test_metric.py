"""The decorator: what a function of a user gets, how its values are pooled, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from registries import forget_entries
from torch import Tensor

from plasticity.agents.parts import PartBuilder
from plasticity.metrics.catalogue import CATALOGUE, chosen, groups
from plasticity.metrics.metric import metric
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import LayerView, PartView
from plasticity.networks.layers.activations import activation_named
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.settings.plugins import load_plugins

# As a user writes it, without a type or a docstring.
SOURCE = """
from plasticity.metrics.metric import metric

@metric("negative_half", unit="share of pre-activations below 0", direction="falls", cost="one pass")
def negative_half(layer): return (layer.pre < 0).float().mean()
"""
SAID = {"unit": "a number", "direction": "rises", "cost": "nothing"}


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_entries(monkeypatch, CATALOGUE)


def layer(name: str, pre: Tensor) -> LayerView:
    return LayerView(name, activation_named("relu"), "relu", pre, pre.relu())


def views() -> list[PartView]:
    # Of the first layer's two units the first is negative on both inputs, the second on one; the other layer's unit never is.
    first, second = layer("dense_1", torch.tensor([[-1.0, -2.0], [-3.0, 4.0]])), layer("dense_1", torch.tensor([[1.0], [1.0]]))
    return [PartView(name, None, (one,)) for name, one in (("actor", first), ("critic", second))]  # type: ignore[arg-type]


def values(function: Callable[..., Any], parts: list[PartView], **declared: Any) -> dict[str, Any]:
    metric("mine", **(SAID | declared))(function)
    return {
        name: value if isinstance(value, Undefined) else float(value) for name, value in CATALOGUE["mine"].measure(parts).items()
    }


def test_a_file_of_a_user_is_found_chosen_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text(SOURCE)
    load_plugins([str(path)])
    assert list(chosen(["default", "negative_half"])) == [*groups()["default"], "negative_half"]
    assert "negative_half" not in groups()["default"]
    assert list(CATALOGUE)[-1] == groups()["all"][-1] == "negative_half"
    assert CATALOGUE["negative_half"].line == "Share of pre-activations below 0. Cost: one pass."
    # Pooled, each of the three units counts once, with the mean of its layer: (3/4 + 3/4 + 0) / 3.
    measured = {name: float(value) for name, value in CATALOGUE["negative_half"].measure(views()).items()}  # type: ignore[arg-type]
    assert measured == {"": 0.5, "/actor/dense_1": 0.75, "/critic/dense_1": 0.0}


def test_a_name_taken_by_another_file_or_by_the_project_is_refused_with_both(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.py", "b.py", "c.py"))
    first.write_text(SOURCE)
    second.write_text(SOURCE)
    third.write_text(SOURCE.replace("negative_half", "dead_fraction"))
    load_plugins([str(first)])
    with pytest.raises(ValueError, match=re.escape(f"metric negative_half is registered twice: in {first} and in {second}")):
        load_plugins([str(second)])
    with pytest.raises(ValueError, match=r"metric dead_fraction is registered twice: in .*activity_metrics\.py and in .*c\.py"):
        load_plugins([str(third)])


def test_units_of_all_layers_count_equally_and_a_summary_may_be_another() -> None:
    shares = lambda layer: (layer.pre < 0).float().mean(0)  # noqa: E731
    assert values(shares, views()) == {"": 0.5, "/actor/dense_1": 0.75, "/critic/dense_1": 0.0}
    assert values(shares, views(), summary=torch.amax) == {"": 1.0, "/actor/dense_1": 1.0, "/critic/dense_1": 0.0}


def test_a_mask_is_counted_and_a_layer_without_a_value_leaves_the_pool() -> None:
    always = lambda layer: (layer.pre < 0).all(0) if layer.pre.shape[1] == 2 else Undefined("one unit")  # noqa: E731
    found = values(always, views())
    assert (found[""], found["/actor/dense_1"], found["/critic/dense_1"].reason) == (0.5, 0.5, "one unit")


def test_features_and_parts_are_averaged_over_parts() -> None:
    views_now = [PartView(view.name, part("q"), view.layers) for view in views()]
    widths = lambda layer: float(layer.pre.shape[1])  # noqa: E731
    assert values(widths, views_now, of="features") == {"": 1.5, "/actor/dense_1": 2.0, "/critic/dense_1": 1.0}
    assert values(lambda view: float(len(view.name)), views_now, of="parts") == {"": 5.5, "/actor": 5.0, "/critic": 6.0}


def part(name: str) -> Any:
    built = PartBuilder(MLPSpec(widths=[2]), (1,), torch.float32, OptimizerSettings())(name, HeadSpec("regression", 1))
    with torch.no_grad():
        for parameter in built.network.parameters():
            parameter.fill_(3.0)
    return built


def test_sums_over_parameters_are_added_up_before_the_summary() -> None:
    def squares(view: PartView, names: list[str]) -> Tensor:
        return torch.stack([view.part.network.get_parameter(name).detach().square().sum() for name in names]).sum()

    parts = [PartView("q", part("q"), ())]
    # dense_1 has two weights and two biases, the head two weights and one bias, all 3: 4 * 9 = 36, 3 * 9 = 27, in all 63.
    everything = values(squares, parts, of="parameters", summary=torch.sqrt)
    assert everything == pytest.approx({"": 63**0.5, "/q/dense_1": 6.0, "/q/head": 27**0.5})
    weights = values(squares, parts, of="parameters", summary=torch.sqrt, only_weights=True)
    assert weights == pytest.approx({"": 6.0, "/q/dense_1": 18**0.5, "/q/head": 18**0.5})


def test_a_function_of_the_agent_says_every_value() -> None:
    assert values(lambda parts: {"": 2.0, "/actor": 1.0}, views(), of="agent") == {"": 2.0, "/actor": 1.0}


@pytest.mark.parametrize(
    ("name", "declared", "message"),
    [
        ("mine", {"of": "unit"}, r"metric mine: of=unit is unknown \(did you mean units\?\); choose from units, features, parts"),
        ("all", {}, "metric all must have another name: default and all stand for groups of metrics"),
        ("Mine", {}, "metric name 'Mine' must be lower-case words"),
        ("mine", {"unit": ""}, "metric mine must be described: give it a unit or a docstring"),
    ],
)
def test_what_is_declared_wrongly_is_refused(name: str, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(name, **(SAID | declared))(lambda layer: 0.0)


def test_more_than_a_value_for_each_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must return one number or a value for each unit, not \(2, 2\)"):
        values(lambda layer: layer.pre, views())
