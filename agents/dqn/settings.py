"""Settings of DQN and of the agents built on it: C51, Rainbow, and each of their parts alone."""

from dataclasses import dataclass, replace
from typing import Final

from plasticity.agents.losses.value_coding import CATEGORICAL, POP_ART, CodingSettings
from plasticity.networks.spec import HeadSpec
from plasticity.settings.fields import setting

LOSSES: Final = ("squared", "huber", "two_hot", "hl_gauss", POP_ART, CATEGORICAL)
BEHAVIOURS: Final = ("epsilon_greedy", "uniform")


@dataclass
class DQNSettings(CodingSettings):
    """Deep Q-network (Mnih et al. 2015), with every extension that Rainbow is composed of (Hessel et al. 2018) as an option.

    With ``loss: categorical`` this is C51 (Bellemare et al. 2017), whose target is the projected distribution of the next value;
    ``two_hot`` and ``hl_gauss`` encode the usual scalar target. C51 with ``double``, ``dueling``, ``prioritised``, ``n_step`` 3
    and noise is Rainbow.
    """

    batch_size: int = setting(8, "Transitions per update. 32 in Mnih et al. 2015; smaller ones silence units sooner.", low=1)
    n_step: int = setting(1, "Maximum number of steps that a return adds up before the target network takes over.", low=1)
    buffer_transitions: int = setting(100_000, "Size of the replay.", low=1)
    replay_folder: str | None = setting(
        None,
        "Where observations are mapped to a file instead of being kept in memory; None for in memory. The "
        "file has no name, and its space is free again when the program ends.",
    )
    warmup_env_steps: int = setting(1000, "Environment steps before the first update.", low=0)
    env_steps_per_update: int = setting(1, "Environment steps for each update.", low=1)
    target_every_updates: int = setting(500, "Updates between hard copies into the target network.", low=1)
    double: bool = setting(False, "Whether the online network chooses the next action (van Hasselt et al. 2016).")
    dueling: bool = setting(False, "Whether values are the sum of a value and an advantage stream (Wang et al. 2016).")
    stream_widths: list[int] = setting([], "Units of the hidden layers of each stream.", low=1)
    noise_deviation: float = setting(
        0.0,
        "sigma_0 of noisy dense layers (Fortunato et al. 2018), which then explore; 0 for none. Noise is "
        "drawn again for every action, and for each of the three forward passes of an update; evaluation acts "
        "without it.",
        low=0,
    )
    loss: str = setting(
        "squared", "``squared``, ``huber``, ``two_hot``, ``hl_gauss``, ``pop_art`` or ``categorical``.", choices=LOSSES
    )
    behaviour: str = setting("epsilon_greedy", "``epsilon_greedy`` or ``uniform``.", choices=BEHAVIOURS)
    epsilon_start: float = setting(1.0, "Exploration at the first step.", low=0, high=1)
    epsilon_end: float = setting(0.05, "Exploration at the end.", low=0, high=1)
    epsilon_env_steps: int = setting(10_000, "Environment steps over which it falls linearly.", low=0)
    prioritised: bool = setting(
        False,
        "Whether transitions are drawn by priority (Schaul et al. 2016): the absolute error of a scalar "
        "value, of a normalised one for ``pop_art``, the cross-entropy of a categorical one, at most 100.",
    )
    priority_exponent: float = setting(0.5, "alpha.", low=0, high=1)
    priority_uniform_fraction: float = setting(0.001, "Share of draws that are uniform.", low=0, high=1)
    importance_start: float = setting(
        0.4, "beta at the first update; weights are divided by the largest of their batch.", low=0, high=1
    )
    importance_end: float = setting(1.0, "beta at the end.", low=0, high=1)
    importance_env_steps: int = setting(20_000, "Environment steps from the first update over which beta rises linearly.", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream_widths and not self.dueling:
            raise ValueError(
                f"agent.stream_widths={list(self.stream_widths)} needs agent.dueling=true: without it there are no streams"
            )
        if self.loss == POP_ART and self.dueling:
            raise ValueError("agent.loss=pop_art rescales one last map, and agent.dueling=true has two; choose dueling=false")

    @property
    def value_kind(self) -> str:
        """The loss that values are learned by."""
        return self.loss

    def head(self, actions: int) -> HeadSpec:
        """Returns the output for a number of actions."""
        plain = self.coding.head("q", actions)
        widths = tuple(self.stream_widths)
        return replace(plain, dueling=self.dueling, stream_widths=widths, noise_deviation=self.noise_deviation)
