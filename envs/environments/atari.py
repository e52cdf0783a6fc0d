"""Atari games through the vectorised emulator of ale-py."""

from functools import partial
from typing import Any

import numpy as np
import torch
from ale_py import AtariVectorEnv, roms
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from plasticity.envs.environments.atari_settings import AtariSettings
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.problem import Problem, environment_problem
from plasticity.envs.stream import Stream
from plasticity.settings.naming import unknown_name


class _Emulators(AtariVectorEnv):
    metadata = {}  # noqa: RUF012 (its own, as ale-py writes into what would be the dictionary of all vector environments)


class AtariVector(VectorWrapper[Any, Any, Any]):
    """Copies of one game; images (frame_stack, size, size) in uint8, one transition a decision.

    Over ale-py's environment it clips rewards itself, so that ``info["raw_reward"]`` can hold the score; gives lost lives the
    observation that follows as their final one, where ale-py leaves that row unset; and says in ``info["episode_over"]`` which
    games are over, if lost lives are terminal. The emulator's state cannot be saved: a resumed run begins its games anew.

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
        """Begins every game anew."""
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


def build_atari(settings: AtariSettings, seed: int, device: torch.device) -> tuple[Stream, Problem]:
    """Builds the stream and says what problem it poses.

    Raises:
        ValueError: A game is unknown.
    """
    for game in settings.games:
        check_game("games", game)
    env: VectorEnv[Any, Any, Any]
    if settings.games:
        makers = [partial(AtariVector, game, settings) for game in settings.games]
        env = TaskSequence(makers, settings.steps_per_game, seed, settings.announce_tasks)
    else:
        env = AtariVector(settings.game, settings)
    stream = EnvironmentStream(env, seed, ",".join(settings.games) or settings.game)
    return stream, environment_problem(stream)._replace(frame_stack=settings.frame_stack)


def check_game(setting: str, game: str) -> None:
    """Raises ValueError, with the nearest valid names, unless the game exists."""
    known = set(roms.get_all_rom_ids())
    if game not in known:
        raise ValueError(unknown_name(setting, game, known))


def _emulators(game: str, settings: AtariSettings) -> VectorEnv[Any, Any, Any]:
    return _Emulators(
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
