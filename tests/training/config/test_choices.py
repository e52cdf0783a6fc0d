"""What a plugin registers is chosen, checked and listed like what the project has, without a YAML file."""

import re
from pathlib import Path

import pytest
import torch
from registries import forget_entries

from plasticity.agents.registry import AGENTS, agent
from plasticity.networks.factory import build_network
from plasticity.networks.spec import HeadSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OPTIMIZERS, OptimizerSettings, build_optimizer, optimizer
from plasticity.settings.plugins import load_plugins
from plasticity.training.config.choices import options
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.config_store import register_configs
from plasticity.training.config.listing import help_text, list_lines
from plasticity.training.config.settings import plan_from

CONFIGS = Path(__file__).parents[3] / "configs"
SOURCE = """
from dataclasses import dataclass

import torch

from plasticity.agents.registry import agent
from plasticity.optimizers.factory import OptimizerSettings, optimizer
from plasticity.settings.fields import Settings, setting


@dataclass
class SignSettings(OptimizerSettings):
    shrink: float = setting(0.5, "Factor of every step.", low=0, high=1)


class Sign(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


@optimizer("sign", SignSettings)
def sign(settings, network, seed):
    \"\"\"Steps of one length in every entry.\"\"\"
    return Sign(network.parameters(), {"lr": settings.learning_rate * settings.shrink})


@dataclass
class MySettings(Settings):
    \"\"\"Acts as it likes.\"\"\"

    width: int = setting(3, "Units of something.", low=1)


@agent("mine", MySettings, learns_from="environment", actions="discrete")
class Mine:
    def __init__(self, settings, problem, build_part):
        self.parts = {}
"""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    forget_entries(monkeypatch, AGENTS, OPTIMIZERS)
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    load_plugins([str(path)])
    return path


@pytest.mark.usefixtures("plugin")
def test_a_plugin_s_agent_and_optimizer_compose_without_a_file() -> None:
    config = compose_config(["agent=mine", "agent.width=7", "optimizer=sign", "optimizer.shrink=0.25"], CONFIGS)
    assert config["agent"] == {"name": "mine", "width": 7}
    assert (config["choices"]["agent"], config["choices"]["optimizer"]) == ("mine", "sign")
    plan = plan_from(config)
    assert (plan.agent_name, getattr(plan.agent, "width", None)) == ("mine", 7)
    assert (plan.optimizer.name, getattr(plan.optimizer, "shrink", None)) == ("sign", 0.25)
    with pytest.raises(ValueError, match=r"agent\.width=0 must be at least 1"):
        plan_from(compose_config(["agent=mine", "agent.width=0"], CONFIGS))
    with pytest.raises(ValueError, match=r"optimizer\.shrink=2\.0 must be between 0 and 1"):
        plan_from(compose_config(["optimizer=sign", "optimizer.shrink=2.0"], CONFIGS))


@pytest.mark.usefixtures("plugin")
def test_a_plugin_s_optimizer_is_built_with_its_settings() -> None:
    network = build_network(MLPSpec(widths=[]), (1,), torch.float32, HeadSpec("regression", 1), 0)
    settings = OPTIMIZERS["sign"].settings(name="sign", learning_rate=0.5)
    made = build_optimizer(settings, network)
    assert (type(made).__name__, made.param_groups[0]["lr"]) == ("Sign", 0.25)  # 0.5 * 0.5


@pytest.mark.usefixtures("plugin")
def test_a_part_may_have_another_optimizer_than_the_rest() -> None:
    own = {"critic": {"name": "sgd", "momentum": 0.5}}
    config = compose_config(["optimizer=sign", "optimizer.learning_rate=0.125"], CONFIGS)
    plan = plan_from({**config, "optimizer": {**config["optimizer"], "parts": own}})
    critic = plan.optimizer_parts["critic"]
    assert (type(critic), critic.name, critic.momentum, critic.learning_rate) == (OptimizerSettings, "sgd", 0.5, 0.125)


@pytest.mark.usefixtures("plugin")
def test_they_are_listed_and_their_settings_too() -> None:
    assert "mine" in options("agent", CONFIGS)
    assert "sign" in options("optimizer", CONFIGS)
    said = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in list_lines("agents", CONFIGS)}
    assert said["mine"] == "Acts as it likes."
    assert any(re.fullmatch(r"sign +Steps of one length in every entry\.", line) for line in list_lines("optimizers", CONFIGS))
    assert list_lines("agents.mine", CONFIGS) == ["width=3  Units of something. [at least 1]"]
    assert "shrink=0.5" in "\n".join(list_lines("optimizers.sign", CONFIGS))
    assert "mine" in help_text(CONFIGS)


def test_what_is_in_the_tree_needs_its_file() -> None:
    register_configs()
    assert AGENTS.added() == OPTIMIZERS.added() == []
    assert options("agent", CONFIGS) == sorted(path.stem for path in (CONFIGS / "agent").glob("*.yaml"))


def test_a_word_that_a_file_gives_another_meaning_is_refused(plugin: Path) -> None:
    class Other:
        """Stands for an agent of a user."""

    agent("c51", AGENTS["mine"].settings, learns_from="environment", actions="discrete")(Other)  # type: ignore[type-var]
    with pytest.raises(
        ValueError, match=r"agent=c51 is defined twice: in .*configs/agent/c51\.yaml and in .*; give yours another name"
    ):
        options("agent", CONFIGS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("agents.dqm", r"list=agents\.dqm is unknown \(did you mean agents\.dqn\?\); choose from agents\.dqn, agents\.ppo"),
        (
            "metrics.redo",
            r"list=metrics\.redo is unknown; settings are listed of agents, envs, networks, optimizers, interventions",
        ),
        ("agnets", r"list=agnets is unknown \(did you mean agents\?\)"),
    ],
)
def test_an_unknown_list_is_refused(words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list_lines(words, CONFIGS)


def test_settings_of_another_class_are_refused() -> None:
    with pytest.raises(TypeError, match="must be a dataclass derived from OptimizerSettings"):
        optimizer("bad", dict)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a dataclass derived from Settings"):
        agent("bad", dict, learns_from="environment", actions="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"agent bad: actions=all is unknown"):
        agent("bad", OptimizerSettings, learns_from="environment", actions="all")


def test_a_choice_of_a_file_lists_the_settings_as_it_has_them() -> None:
    rainbow, dqn = ("\n".join(list_lines(f"agents.{name}", CONFIGS)) for name in ("rainbow", "dqn"))
    assert "bins=51 " in rainbow
    assert "bins=None " in dqn
    assert "widths=[256]" in "\n".join(list_lines("networks.conv_4x32", CONFIGS))
