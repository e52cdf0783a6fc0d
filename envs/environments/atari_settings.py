"""Atari protocols: what has to be told with every score, since scores under different ones cannot be compared."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from plasticity.settings.fields import Settings, setting

# Machado et al. (2018) as in Dopamine; Mnih et al. (2015) as in DQN Zoo; the wrappers of OpenAI Baselines.
PROTOCOLS: Final[dict[str, dict[str, Any]]] = {
    "dopamine": {
        "sticky_action_probability": 0.25,
        "noop_max": 0,
        "fire_on_reset": False,
        "life_loss_terminates": False,
    },
    "dqn2015": {
        "sticky_action_probability": 0.0,
        "noop_max": 30,
        "fire_on_reset": False,
        "life_loss_terminates": True,
    },
    "baselines": {
        "sticky_action_probability": 0.0,
        "noop_max": 30,
        "fire_on_reset": True,
        "life_loss_terminates": True,
    },
}


@dataclass
class AtariSettings(Settings):
    """An Atari game, or a sequence of games, by the Arcade Learning Environment.

    A setting that is null takes the protocol's value; once the settings are made they hold what is really used. Common to all
    protocols: four frames a decision of which the last two are pooled, four 84 x 84 grey images stacked, and zeros in place of
    images from before the reset. One thing is missing from ``baselines``: FIRE is pressed when a game begins, but not after
    every lost life, because the emulator cannot step some copies only; and it fills the stack with copies of the first image.
    """

    section: ClassVar[str] = "env"

    game: str = setting("breakout", "Name in small letters, ``demon_attack`` say.")
    protocol: str = setting(
        "dopamine", "``dopamine`` (sticky actions), ``dqn2015`` or ``baselines`` (both without them, a lost life is terminal)."
    )
    num_envs: int = setting(1, "Copies that are stepped together.")
    num_threads: int = setting(0, "Threads that step them, 0 for one per core; the stream is the same for any number.")
    sticky_action_probability: float | None = setting(
        None, "Chance that the emulator repeats the last action in a frame, in [0, 1]."
    )
    noop_max: int | None = setting(None, "Most frames that are waited at the start of a game, drawn uniformly.")
    fire_on_reset: bool | None = setting(None, "Whether FIRE is pressed when a game begins.")
    life_loss_terminates: bool | None = setting(
        None, "Whether a lost life is terminal to the learner, while the game goes on. Returns are those of games."
    )
    clip_rewards: bool = setting(True, "Whether rewards are clipped to ±1. Returns that are reported stay as they are.")
    full_action_set: bool = setting(
        False, "Whether all 18 actions can be taken, and not only those that do something in this game."
    )
    max_episode_frames: int = setting(
        108_000, "Emulator frames, not decisions, after which a game is truncated: 108,000 are 27,000 decisions."
    )
    frame_skip: int = setting(4, "Frames a decision.")
    frame_stack: int = setting(4, "Images shown.")
    screen_size: int = setting(84, "Height and width of an image in pixels.")
    games: list[str] = setting(
        [], "Games to play one after the other and again from the first, with the full action set, instead of ``game``."
    )
    steps_per_game: int = setting(1_000_000, "Environment steps, over all copies, between games of ``games``.")
    announce_tasks: bool = setting(True, "Whether agent and interventions are told when the game changes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol={self.protocol} is unknown; choose from {', '.join(PROTOCOLS)}")
        for name, value in PROTOCOLS[self.protocol].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.games:
            self.full_action_set = True  # the actions must mean the same in all games
        smallest = {"num_envs": 1, "num_threads": 0, "noop_max": 0, "max_episode_frames": 1, "steps_per_game": 1}
        for name, least in {**smallest, "frame_skip": 1, "frame_stack": 1, "screen_size": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if not 0.0 <= self.sticky_action_probability <= 1.0:  # type: ignore[operator]
            raise ValueError(f"sticky_action_probability={self.sticky_action_probability} must be in 0..1")


def protocol_line(settings: AtariSettings) -> str:
    """Returns all settings that decide what a score means, in one line for a table or a figure."""
    apart = ("num_envs", "num_threads", "game", "games", "steps_per_game", "announce_tasks")
    told = [item.name for item in fields(settings) if item.name not in apart]
    return " ".join(f"{name}={getattr(settings, name)}" for name in told)
