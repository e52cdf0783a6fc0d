"""From plain containers to typed settings: every mistake is named."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from plasticity.networks.spec import LoadBalancingSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.settings.naming import did_you_mean
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import CheckpointSettings, build_settings, plan_from

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return compose_config(["intervention=[redo,l2]", "interventions.redo.threshold=0.5"], CONFIGS)


def test_a_plan_holds_typed_settings_in_the_order_of_the_config(composed: dict[str, Any]) -> None:
    plan = plan_from(composed)
    assert (plan.agent_name, plan.run.steps, plan.run.threads, plan.checkpoint.every_steps) == ("dqn", 20000, "auto", 20000)
    assert plan.network == MLPSpec(widths=[128, 128])
    assert list(plan.interventions) == ["redo", "l2"]
    assert plan.config == composed


def test_the_atoms_are_open_in_the_composed_config_and_numbers_in_the_plan() -> None:
    config = compose_config(["agent=dqn_two_hot"], CONFIGS)
    names = ("bins", "value_low", "value_high")
    assert [config["agent"][name] for name in names] == [None, None, None]
    for discount, bins in ((0.0, 3), (0.9, 21), (0.99, 201), (0.97, 69)):
        plan = plan_from({**config, "agent": {**config["agent"], "discount": discount}})
        assert [plan.config["agent"][name] for name in names] == [bins, -(bins - 1) / 2, (bins - 1) / 2]
        assert plan_from(plan.config).agent == plan.agent
        assert list(plan.config["agent"]) == list(config["agent"])
    scalar = plan_from({**config, "agent": {**config["agent"], "loss": "huber"}})
    assert [scalar.config["agent"][name] for name in names] == [None, None, None]


def test_each_call_of_a_factory_makes_a_new_instance(composed: dict[str, Any]) -> None:
    make: Callable[[], Any] = plan_from(composed).interventions["redo"]
    assert make().threshold == 0.5
    assert make() is not make()


def test_nested_and_missing_values() -> None:
    spec = build_settings(NetworkSpec, {"load_balancing": {"low": 0.1}, "widths": [3]}, "network")
    assert spec.load_balancing == LoadBalancingSpec(low=0.1)
    assert build_settings(CheckpointSettings, {}, "checkpoint") == CheckpointSettings()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("seed", -1, r"^seed=-1 must be between 0 and 9\.22337e\+18$"),
        ("seed", 2**63, r"^seed=9223372036854775808 must be between 0 and"),
        ("steps", None, r"^steps=None: "),
        ("steps", 10**30, r"^steps=10{30} must be at most 9\.22337e\+18$"),
        ("threads", "9999999999", r"^threads=9999999999 must be auto or a number between 1 and 1024$"),
        ("agent.batch_size", 1e30, r"^agent\.batch_size=10+\d* must be at most 9\.22337e\+18$"),
        ("optimizer.learning_rate", float("inf"), r"^optimizer\.learning_rate=inf must be a finite number$"),
        ("optimizer.learning_rate", float("nan"), r"^optimizer\.learning_rate=nan must be a finite number$"),
        ("optimizer.betas", [0.9, float("nan")], r"^optimizer\.betas=nan must be a finite number$"),
        ("network.activation_offset", float("inf"), r"^network\.activation_offset=inf must be a finite number$"),
        ("interventions.redo.threshold", float("inf"), r"^interventions\.redo\.threshold=inf must be a finite number$"),
        ("steps", "x", r"^steps=x: Value 'x' of type 'str' could not be converted to Integer$"),
        ("threads", "0", r"^threads=0 must be auto or a number between 1 and 1024$"),
        ("plugins", "mine.py", r"^plugins=mine\.py: must be a list, \[mine\.py\]$"),
        ("network.widths", 5, r"^network\.widths=5: must be a list, \[5\]$"),
        ("probe", None, r"^probe=null must hold settings, probe\.<setting>=<value>$"),
        ("interventions", None, r"^interventions=null must hold settings"),
        ("interventions", 5, r"^interventions=5 must hold settings"),
        ("interventions.redo", None, r"^interventions\.redo=null must hold settings"),
        ("interventions.rodo", {}, r"^intervention=rodo is unknown \(did you mean redo\?\); choose from activation, "),
        ("interventions.redo.treshold", 0.1, r"^interventions\.redo\.treshold is unknown \(did you mean threshold\?\); "),
        ("agent.name", "a3c", r"^agent\.name=a3c is unknown \(did you mean sac\?\); choose from dqn, ppo, sac, supervised$"),
        ("checkpoint.keep", 0, r"^checkpoint\.keep=0 must be at least 1$"),
    ],
)
def test_mistakes_are_named(composed: dict[str, Any], place: str, value: Any, message: str) -> None:
    config = deepcopy(composed)
    *path, key = place.split(".")
    node = config
    for step in path:
        node = node[step]
    node[key] = value
    with pytest.raises(ValueError, match=message) as error:
        plan_from(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["agent", "steps", "probe"])
def test_a_deleted_setting_is_named(composed: dict[str, Any], key: str) -> None:
    config = {name: value for name, value in composed.items() if name != key}
    with pytest.raises(ValueError, match=f"^{key}"):
        plan_from(config)


def test_hints_name_close_words_only() -> None:
    assert did_you_mean("stpes", ["steps", "seed"]) == " (did you mean steps?)"
    assert did_you_mean("zzz", ["steps", "seed"]) == ""


def test_parts_can_have_networks_and_optimizers_of_their_own() -> None:
    words = [
        "agent=sac",
        "network.activations=[tanh]",
        "++network.parts.critic.widths=[3]",
        "++optimizer.parts.actor.learning_rate=0.5",
        "optimizer.epsilon=0.25",
    ]
    plan = plan_from(compose_config(words, CONFIGS))
    assert plan.network == MLPSpec(widths=[128, 128], activations=["tanh"])
    assert plan.network_parts == {"critic": MLPSpec(widths=[3], activations=["tanh"])}
    assert list(plan.optimizer_parts) == ["actor"]
    assert (plan.optimizer_parts["actor"].learning_rate, plan.optimizer_parts["actor"].epsilon) == (0.5, 0.25)
    assert plan.optimizer.learning_rate != 0.5


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("++network.parts.critic.width=[3]", r"^network\.parts\.critic\.width is unknown \(did you mean widths\?\)"),
        ("++network.parts.critic=3", r"^network\.parts\.critic=3 must hold settings"),
        ("++optimizer.parts.actor.learning_rate=-1", r"^optimizer\.learning_rate=-1\.0 must be at least 0"),
    ],
)
def test_mistakes_in_parts_are_named(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_from(compose_config(["agent=sac", word], CONFIGS))
