"""MinAtar: five small games after Atari's, on a board of 10 by 10 cells; needs the extra ``minatar``.

Young and Tian (2019), "MinAtar: an Atari-inspired testbed for thorough and reproducible reinforcement learning experiments". The
package is imported where it is used, because it is an extra and imports plotting libraries.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from plasticity.envs.environments.minatar_state import game_state, restore_game
from plasticity.envs.environments.task_sequence import TaskSequence
from plasticity.envs.environments.vector_settings import VectorSettings
from plasticity.envs.registry import stream
from plasticity.envs.simulation.generator_state import generator_state, restored_generator
from plasticity.envs.simulation.shift import Shift, listed_values
from plasticity.envs.simulation.sync_vector import SyncVector
from plasticity.settings.fields import setting
from plasticity.settings.naming import unknown_name

GAMES: Final = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
MOST_CHANNELS: Final = 10  # those of seaquest
_PIXELS: Final = 16  # of a cell's side in a picture
_COLOURS: Final = np.array(  # of each channel, in a picture
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (153, 153, 153),
        (255, 255, 255),
        (148, 103, 189),
    ],
    np.uint8,
)

Observation = npt.NDArray[Any]


class MinAtarEnv(gymnasium.Env[Observation, np.int64]):
    """One game; observations (channels, 10, 10) of bool, which state what is in each cell.

    A game's own end is terminal, including that of ``freeway`` after 2,500 steps, as in the package. The last action, which a
    sticky one repeats, is kept at the end of an episode, also as in the package.

    Args:
        game: Name of the game.
        sticky_action_prob: Chance that the last action is repeated.
        difficulty_ramping: Whether ``asterix``, ``seaquest`` and ``space_invaders`` become harder as they go on.
        full_action_set: Whether all six actions can be taken, and not only those that do something in this game.
        max_episode_steps: Steps after which an episode is truncated; None for no limit.
        channels: Channels to show, the game's first and then empty ones; None for those of the game.

    Attributes:
        sticky_action_prob: As given; may be changed between steps.
        episode_steps: ``max_episode_steps``.

    Raises:
        ValueError: The game is unknown, has more channels, or the package is missing.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        game: str = "breakout",
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        full_action_set: bool = True,
        max_episode_steps: int | None = None,
        channels: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_game("game", game)
        self.render_mode = render_mode
        self._game = _package().Environment(game, sticky_action_prob, difficulty_ramping)
        self._generator = np.random.RandomState(0)
        self._game.random = self._game.env.random = self._generator
        self.sticky_action_prob = sticky_action_prob
        self.episode_steps = max_episode_steps
        self._elapsed = 0
        rows, columns, own = self._game.state_shape()
        self._empty = (channels or own) - own
        if self._empty < 0:
            raise ValueError(f"channels={channels} must be at least the {own} of {game}")
        self._actions = list(range(self._game.num_actions())) if full_action_set else self._game.minimal_action_set()
        kind: Any = np.bool_
        self.observation_space = spaces.Box(0, 1, (own + self._empty, rows, columns), kind)
        self.action_space = spaces.Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        if seed is not None:
            self._generator.seed(int(self.np_random.integers(2**32)))
            self._game.last_action = 0
        self._game.reset()
        self._elapsed = 0
        return self._shown(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes an action, or with ``sticky_action_prob`` the last one again."""
        self._game.sticky_action_prob = self.sticky_action_prob
        reward, over = self._game.act(self._actions[int(action)])
        self._elapsed += 1
        late = self.episode_steps is not None and self._elapsed >= self.episode_steps
        return self._shown(), float(reward), bool(over), late and not over, {}

    def render(self) -> Any:
        """Returns an image (160, 160, 3), the last of a cell's channels as its colour, if ``render_mode`` is ``rgb_array``."""
        if self.render_mode != "rgb_array":
            return None
        board = self._shown()
        picture = np.zeros((*board.shape[1:], 3), np.uint8)
        for channel, colour in zip(board, _COLOURS, strict=False):
            picture[channel] = colour
        return picture.repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)

    def state_dict(self) -> dict[str, Any]:
        """Returns the game, its last action, the place in the episode and the generators."""
        return {
            **game_state(self._game.env, self._generator),
            "last_action": int(self._game.last_action),
            "elapsed": self._elapsed,
            "generator": generator_state(self.np_random),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues exactly where ``state_dict`` was taken.

        Raises:
            ValueError: The state is of another game.
        """
        restore_game(self._game.env, self._generator, state)
        self._game.last_action, self._elapsed = state["last_action"], state["elapsed"]
        self.np_random = restored_generator(state["generator"])

    def _shown(self) -> Observation:
        board = np.moveaxis(self._game.state(), -1, 0)
        return np.pad(board, ((0, self._empty), (0, 0), (0, 0))) if self._empty else np.ascontiguousarray(board)


class StickyShift(Shift):
    """Changes how often the last action is repeated; a drift moves the probability in a straight line, see ``Shift``."""

    def __init__(self, env: gymnasium.Env[Any, Any], settings: "MinAtarSettings") -> None:
        super().__init__(
            env,
            "sticky_action_prob",
            listed_values(settings.sticky_action_probs),
            settings.change_every_steps,
            settings.announce_tasks,
            settings.num_envs,
            settings.drift_steps,
        )
        self._apply(0)

    def _between(self, before: float, after: float, share: float) -> float:
        return after if share >= 1.0 else before + share * (after - before)

    def _put(self, value: float) -> None:
        self.env.unwrapped.sticky_action_prob = value  # type: ignore[attr-defined]


@stream("minatar")
@dataclass
class MinAtarSettings(VectorSettings):
    """A game of MinAtar, a sequence of games, or a game whose actions become more or less sticky."""

    game: str = setting("breakout", "Name of a game.", choices=GAMES)
    sticky_action_prob: float = setting(0.1, "Chance that the last action is repeated.", low=0, high=1)
    difficulty_ramping: bool = setting(True, "Whether asterix, seaquest and space_invaders become harder as they go on.")
    full_action_set: bool = setting(
        True, "Whether all six actions can be taken, and not only those that do something in this game."
    )
    max_episode_steps: int | None = setting(None, "Steps after which an episode is truncated; None for no limit.", low=1)
    games: list[str] = setting(
        [],
        "Games to play one after the other and again from the first, with all actions and ten channels, instead of ``game``.",
    )
    steps_per_game: int = setting(1_000_000, "Environment steps, over all copies, between games of ``games``.", low=1)
    sticky_action_probs: list[float] = setting(
        [],
        "Chances to use one after the other and again from the first, instead of ``sticky_action_prob``.",
        low=0,
        high=1,
    )
    change_every_steps: int = setting(
        1_000_000, "Environment steps, over all copies, after which the next episode brings the next of these.", low=1
    )
    drift_steps: int = setting(
        0, "Environment steps, over all copies, that such a change takes, in a straight line; 0 for sudden changes.", low=0
    )
    announce_tasks: bool = setting(True, "Whether agent and interventions are informed of a change.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.games:
            self.full_action_set = True  # the actions must mean the same in all games

    def environment(self, seed: int) -> gymnasium.Env[Any, Any]:
        """Makes one copy of ``game``; the seed does not matter."""
        return self._copy(self.game, None)

    def vector(self, seed: int) -> VectorEnv[Any, Any, Any]:
        """Makes all copies of the game, or of the sequence of games.

        Raises:
            ValueError: A game is unknown, settings do not fit together, or the package is missing.
        """
        if self.drift_steps and not self.sticky_action_probs:
            raise ValueError(f"drift_steps={self.drift_steps} needs sticky_action_probs: nothing else in a game can drift")
        if not self.games:
            return self._copies(self.game, None)
        if self.sticky_action_probs:
            raise ValueError(f"games={self.games} and sticky_action_probs={self.sticky_action_probs}: choose one of the two")
        for game in self.games:
            check_game("games", game)
        makers = [partial(self._copies, game, MOST_CHANNELS) for game in self.games]
        return TaskSequence(makers, self.steps_per_game, seed, self.announce_tasks)

    def label(self) -> str:
        """Returns the games."""
        return ",".join(self.games) or self.game

    def _copies(self, game: str, channels: int | None) -> SyncVector:
        return SyncVector([partial(self._copy, game, channels)] * self.num_envs, "channels_first")

    def _copy(self, game: str, channels: int | None) -> gymnasium.Env[Any, Any]:
        env = MinAtarEnv(
            game,
            self.sticky_action_prob,
            self.difficulty_ramping,
            self.full_action_set,
            self.max_episode_steps,
            channels,
        )
        return StickyShift(env, self) if self.sticky_action_probs else env


def check_game(setting: str, game: str) -> None:
    """Raises ValueError, with the nearest valid names, unless the game exists."""
    if game not in GAMES:
        raise ValueError(unknown_name(setting, game, GAMES))


def _package() -> Any:
    try:
        import minatar
    except ModuleNotFoundError as error:
        raise ValueError(
            f"env=minatar needs the extra minatar, pip install -e '.[minatar]': the module {error.name} is missing"
        ) from error
    return minatar


gymnasium.register("plasticity/MinAtar-v0", "plasticity.envs.environments.minatar:MinAtarEnv")
