"""Settings of DQN and of what is made of it: C51, Rainbow, and each of their parts alone."""

from dataclasses import dataclass, field, replace
from typing import Final

from plasticity.agents.losses.value_coding import CATEGORICAL_LOSSES, POP_ART, ValueCoding, categorical_support, require_decodable
from plasticity.networks.spec import HeadSpec, require_choice, require_range

LOSSES: Final = ("squared", "huber", "two_hot", "hl_gauss", POP_ART, "categorical")
BEHAVIOURS: Final = ("epsilon_greedy", "uniform")


@dataclass
class DQNSettings:
    """Deep Q-network (Mnih et al. 2015), with every extension that Rainbow is composed of (Hessel et al. 2018) as an option.

    With ``loss: categorical`` this is C51 (Bellemare et al. 2017), whose target is the projected distribution of the next value;
    ``two_hot`` and ``hl_gauss`` encode the usual scalar target. C51 with ``double``, ``dueling``, ``prioritised``, ``n_step`` 3
    and noise is Rainbow.

    Attributes:
        discount: gamma, in [0, 1).
        batch_size: Transitions per update. 32 in Mnih et al. 2015; smaller ones silence units sooner.
        n_step: Most steps that a return adds up before the target network takes over.
        buffer_transitions: Size of the replay.
        replay_folder: Where observations are mapped to a file instead of being kept in memory; None for in memory. The file
            has no name, and its space is free again when the program ends.
        warmup_env_steps: Environment steps before the first update.
        env_steps_per_update: Environment steps for each update.
        target_every_updates: Updates between hard copies into the target network.
        double: Whether the online network chooses the next action (van Hasselt et al. 2016).
        dueling: Whether values are the sum of a value and an advantage stream (Wang et al. 2016).
        stream_widths: Units of the hidden layers of each stream.
        noise_deviation: sigma_0 of noisy dense layers (Fortunato et al. 2018), which then explore; 0 for none. Noise is drawn
            anew for every action, and for each of the three forward passes of an update; evaluation acts without it.
        loss: ``squared``, ``huber``, ``two_hot``, ``hl_gauss``, ``pop_art`` or ``categorical``.
        behaviour: ``epsilon_greedy`` or ``uniform``.
        epsilon_start: Exploration at the first step.
        epsilon_end: Exploration in the end.
        epsilon_env_steps: Environment steps over which it falls in a straight line.
        bins: Atoms of a categorical value; None for a spacing of 1.
        value_low: First atom; None for -M, M being 1 / (1 - discount) rounded up, the largest return of rewards in [-1, 1]; for
            ``hl_gauss`` two more. Rewards of another size need numbers of their own, and so do C51's published 51 atoms.
        value_high: Last atom; None for M, or M + 2.
        label_smoothing: Weight of the uniform distribution in the two-hot or HL-Gauss target, in [0, 1].
        label_smoothing_decoding: ``corrected``: a decoded value is that of the target before it was smoothed. ``published``: it
            is the mean of the smoothed one, (1 - label_smoothing) * value + label_smoothing * mean of the atoms, which shrinks
            values that are bootstrapped from as a smaller discount does.
        pop_art_decay: Share of a batch's targets in the moments that ``pop_art`` normalises by, in [0, 1].
        pop_art_deviation_low: Least deviation that it divides by.
        prioritised: Whether transitions are drawn by priority (Schaul et al. 2016): the absolute error of a scalar value, of a
            normalised one for ``pop_art``, the cross-entropy of a categorical one, at most 100.
        priority_exponent: alpha, in [0, 1].
        priority_uniform_fraction: Share of draws that are uniform, in [0, 1].
        importance_start: beta at the first update, in [0, 1]; weights are divided by the largest of their batch.
        importance_end: beta in the end.
        importance_env_steps: Environment steps from the first update over which beta rises in a straight line.
    """

    discount: float = 0.99
    batch_size: int = 8
    n_step: int = 1
    buffer_transitions: int = 100_000
    replay_folder: str | None = None
    warmup_env_steps: int = 1000
    env_steps_per_update: int = 1
    target_every_updates: int = 500
    double: bool = False
    dueling: bool = False
    stream_widths: list[int] = field(default_factory=list)
    noise_deviation: float = 0.0
    loss: str = "squared"
    behaviour: str = "epsilon_greedy"
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_env_steps: int = 10_000
    bins: int | None = None
    value_low: float | None = None
    value_high: float | None = None
    label_smoothing: float = 0.0
    label_smoothing_decoding: str = "corrected"
    pop_art_decay: float = 3e-4
    pop_art_deviation_low: float = 1e-4
    prioritised: bool = False
    priority_exponent: float = 0.5
    priority_uniform_fraction: float = 0.001
    importance_start: float = 0.4
    importance_end: float = 1.0
    importance_env_steps: int = 20_000

    def __post_init__(self) -> None:
        require_range("agent.discount", self.discount, 0, 1 - 1e-9)
        positive = ("batch_size", "n_step", "buffer_transitions", "env_steps_per_update", "target_every_updates")
        for name in positive:
            require_range(f"agent.{name}", getattr(self, name), 1)
        shares = ("epsilon_start", "epsilon_end", "priority_exponent", "priority_uniform_fraction")
        for name in (*shares, "importance_start", "importance_end", "pop_art_decay"):
            require_range(f"agent.{name}", getattr(self, name), 0, 1)
        for name in ("warmup_env_steps", "noise_deviation", "epsilon_env_steps", "importance_env_steps"):
            require_range(f"agent.{name}", getattr(self, name), 0)
        for width in self.stream_widths:
            require_range("agent.stream_widths", width, 1)
        if self.stream_widths and not self.dueling:
            raise ValueError(
                f"agent.stream_widths={list(self.stream_widths)} needs agent.dueling=true: there are no streams else"
            )
        require_choice("agent.loss", self.loss, LOSSES)
        require_decodable(self.label_smoothing, self.label_smoothing_decoding)
        require_range("agent.pop_art_deviation_low", self.pop_art_deviation_low, 1e-30)
        if self.loss == POP_ART and self.dueling:
            raise ValueError("agent.loss=pop_art rescales one last map, and agent.dueling=true has two; choose dueling=false")
        require_choice("agent.behaviour", self.behaviour, BEHAVIOURS)
        if self.loss in CATEGORICAL_LOSSES:
            support = categorical_support(self.loss, self.discount, self.bins, self.value_low, self.value_high)
            self.bins, self.value_low, self.value_high = support

    @property
    def coding(self) -> ValueCoding:
        """How values are represented; that of a two-hot value for C51 as well, whose targets differ and are not smoothed."""
        projected = self.loss == "categorical"
        return ValueCoding(
            "two_hot" if projected else self.loss,
            self.bins or 0,
            self.value_low or 0.0,
            self.value_high or 0.0,
            0.0 if projected else self.label_smoothing,
            self.pop_art_deviation_low,
            self.label_smoothing_decoding,
        )

    def head(self, actions: int) -> HeadSpec:
        """Returns the output for so many actions."""
        plain = self.coding.head("q", actions)
        widths = tuple(self.stream_widths)
        return replace(plain, dueling=self.dueling, stream_widths=widths, noise_deviation=self.noise_deviation)
