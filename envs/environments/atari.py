"""Atari games through the vectorised emulator of ale-py, and the protocols that must be reported with every score.

Scores under different protocols cannot be compared. The emulator is imported where it is used, so that other commands need not
wait.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.problem import Problem, environment_problem
from plasticity.envs.registry import StreamSettings, stream
from plasticity.envs.stream import Stream
from plasticity.settings.fields import setting
from plasticity.settings.naming import unknown_name

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


@stream("atari")
@dataclass
class AtariSettings(StreamSettings):
    """An Atari game, or a sequence of games, by the Arcade Learning Environment.

    A setting that is null takes the protocol's value; once the settings are made they hold the values in use. Common to all
    protocols: four frames a decision of which the last two are pooled, four 84 x 84 grey images stacked, and zeros in place of
    images from before the reset. One thing is missing from ``baselines``: FIRE is pressed when a game begins, but not after
    every lost life, because the emulator cannot step some copies only; and it fills the stack with copies of the first image.
    """

    game: str = setting("breakout", "Name in small letters, such as ``demon_attack``.")
    protocol: str = setting(
        "dopamine",
        "``dopamine`` (sticky actions), ``dqn2015`` or ``baselines`` (both without them, a lost life is terminal).",
        choices=tuple(PROTOCOLS),
    )
    num_envs: int = setting(1, "Copies that are stepped together.", low=1)
    num_threads: int = setting(0, "Threads that step them, 0 for one per core; the stream is the same for any number.", low=0)
    sticky_action_probability: float | None = setting(
        None, "Chance that the emulator repeats the last action in a frame.", low=0, high=1
    )
    noop_max: int | None = setting(None, "Most frames that are waited at the start of a game, drawn uniformly.", low=0)
    fire_on_reset: bool | None = setting(None, "Whether FIRE is pressed when a game starts.")
    life_loss_terminates: bool | None = setting(
        None, "Whether a lost life is terminal to the learner, while the game continues. Returns are those of games."
    )
    clip_rewards: bool = setting(True, "Whether rewards are clipped to ±1. Returns that are reported stay as they are.")
    full_action_set: bool = setting(
        False, "Whether all 18 actions can be taken, and not only those that do something in this game."
    )
    max_episode_frames: int = setting(
        108_000, "Emulator frames, not decisions, after which a game is truncated: 108,000 are 27,000 decisions.", low=1
    )
    frame_skip: int = setting(4, "Frames a decision.", low=1)
    frame_stack: int = setting(4, "Images shown.", low=1)
    screen_size: int = setting(84, "Height and width of an image in pixels.", low=1)
    games: list[str] = setting(
        [], "Games to play one after the other and again from the first, with the full action set, instead of ``game``."
    )
    steps_per_game: int = setting(1_000_000, "Environment steps, over all copies, between games of ``games``.", low=1)
    announce_tasks: bool = setting(True, "Whether agent and interventions are informed when the game changes.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in PROTOCOLS[self.protocol].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.games:
            self.full_action_set = True  # the actions must mean the same in all games

    def build(self, seed: int, device: torch.device) -> tuple[Stream, Problem]:
        """Builds the stream and returns it with the problem that it poses.

        Raises:
            ValueError: A game is unknown.
        """
        for game in self.games:
            check_game("games", game)
        env: VectorEnv[Any, Any, Any]
        if self.games:
            makers = [partial(AtariVector, game, self) for game in self.games]
            env = TaskSequence(makers, self.steps_per_game, seed, self.announce_tasks)
        else:
            env = AtariVector(self.game, self)
        stream = EnvironmentStream(env, seed, ",".join(self.games) or self.game)
        return stream, environment_problem(stream)._replace(frame_stack=self.frame_stack)


def protocol_line(settings: AtariSettings) -> str:
    """Returns all settings that decide what a score means, in one line for a table or a figure."""
    apart = ("num_envs", "num_threads", "game", "games", "steps_per_game", "announce_tasks")
    told = [item.name for item in fields(settings) if item.name not in apart]
    return " ".join(f"{name}={getattr(settings, name)}" for name in told)


class AtariVector(VectorWrapper[Any, Any, Any]):
    """Copies of one game; images (frame_stack, size, size) in uint8, one transition a decision.

    Unlike ale-py's environment it clips rewards itself, so that ``info["raw_reward"]`` can hold the score; gives lost lives the
    observation that follows as their final one, where ale-py leaves that row unset; and marks in ``info["episode_over"]`` which
    games are over, if lost lives are terminal. The emulator's state cannot be saved: a resumed run starts its games again.

    Args:
        game: The game's name.
        settings: How it is played.

    Raises:
        ValueError: The game is unknown.
    """

    def __init__(self, game: str, settings: AtariSettings) -> None:
        check_game("game", game)
        super().__init__(_emulators(game, settings))
        self._clip = settings.clip_rewards
        self._lives = np.zeros(settings.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts every game again."""
        observations, info = self.env.reset(seed=seed, options=options)
        self._lives = np.array(info["lives"])
        return observations, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps every copy by one decision."""
        observations, scores, terminated, truncated, given = self.env.step(actions)
        lives, before = np.array(given["lives"]), self._lives
        self._lives = lives
        scores = np.asarray(scores, np.float32)
        over = np.logical_or(truncated, np.logical_and(terminated, lives >= before))  # a lost life leaves fewer
        info: dict[str, Any] = {"raw_reward": scores, "episode_over": over}
        if np.logical_or(terminated, truncated).any():
            info["final_obs"] = np.where(over[:, None, None, None], given["final_obs"], observations)
        return observations, np.sign(scores) if self._clip else scores, terminated, truncated, info


def check_game(setting: str, game: str) -> None:
    """Raises ValueError, with the nearest valid names, unless the game exists."""
    from ale_py import roms

    known = set(roms.get_all_rom_ids())
    if game not in known:
        raise ValueError(unknown_name(setting, game, known))


def _emulators(game: str, settings: AtariSettings) -> VectorEnv[Any, Any, Any]:
    from ale_py import AtariVectorEnv

    class Emulators(AtariVectorEnv):
        metadata = {}  # noqa: RUF012 (its own, as ale-py writes into what would be the dictionary of all vector environments)

    return Emulators(
        game,
        settings.num_envs,
        num_threads=settings.num_threads,
        max_num_frames_per_episode=settings.max_episode_frames,
        repeat_action_probability=settings.sticky_action_probability or 0.0,
        full_action_space=settings.full_action_set,
        autoreset_mode=AutoresetMode.SAME_STEP,
        img_height=settings.screen_size,
        img_width=settings.screen_size,
        grayscale=True,
        stack_num=settings.frame_stack,
        frameskip=settings.frame_skip,
        maxpool=settings.frame_skip > 1,
        noop_max=settings.noop_max or 0,
        episodic_life=False,  # it would begin a new game after every life
        life_loss_info=bool(settings.life_loss_terminates),
        reward_clipping=False,
        use_fire_reset=bool(settings.fire_on_reset),
    )
