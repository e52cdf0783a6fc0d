"""Atari protocols: what has to be told with every score, since scores under different ones cannot be compared."""

from dataclasses import dataclass, field, fields
from typing import Any, Final

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
class AtariSettings:
    """An Atari game, or a sequence of games, by the Arcade Learning Environment.

    A setting that is null takes the protocol's value; once the settings are made they hold what is really used. Common to all
    protocols: four frames a decision of which the last two are pooled, four 84 x 84 grey images stacked, and zeros in place of
    images from before the reset. One thing is missing from ``baselines``: FIRE is pressed when a game begins, but not after
    every lost life, because the emulator cannot step some copies only; and it fills the stack with copies of the first image.

    Attributes:
        game: Name in small letters, ``demon_attack`` say.
        protocol: ``dopamine`` (sticky actions), ``dqn2015`` or ``baselines`` (both without them, a lost life is terminal).
        num_envs: Copies that are stepped together.
        num_threads: Threads that step them, 0 for one per core; the stream is the same for any number.
        sticky_action_probability: Chance that the emulator repeats the last action in a frame, in [0, 1].
        noop_max: Most frames that are waited at the start of a game, drawn uniformly.
        fire_on_reset: Whether FIRE is pressed when a game begins.
        life_loss_terminates: Whether a lost life is terminal to the learner, while the game goes on. Returns are those of games.
        clip_rewards: Whether rewards are clipped to ±1. Returns that are reported stay as they are.
        full_action_set: Whether all 18 actions can be taken, and not only those that do something in this game.
        max_episode_frames: Emulator frames, not decisions, after which a game is truncated: 108,000 are 27,000 decisions.
        frame_skip: Frames a decision.
        frame_stack: Images shown.
        screen_size: Height and width of an image in pixels.
        games: Games to play one after the other and again from the first, with the full action set, instead of ``game``.
        steps_per_game: Environment steps, over all copies, between games of ``games``.
        announce_tasks: Whether agent and interventions are told when the game changes.
    """

    game: str = "breakout"
    protocol: str = "dopamine"
    num_envs: int = 1
    num_threads: int = 0
    sticky_action_probability: float | None = None
    noop_max: int | None = None
    fire_on_reset: bool | None = None
    life_loss_terminates: bool | None = None
    clip_rewards: bool = True
    full_action_set: bool = False
    max_episode_frames: int = 108_000
    frame_skip: int = 4
    frame_stack: int = 4
    screen_size: int = 84
    games: list[str] = field(default_factory=list)
    steps_per_game: int = 1_000_000
    announce_tasks: bool = True

    def __post_init__(self) -> None:
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
