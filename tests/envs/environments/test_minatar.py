import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.environments.minatar import GAMES, MOST_CHANNELS, MinAtarEnv, MinAtarSettings
from plasticity.envs.factory import build_stream
from plasticity.envs.simulation.evaluation import evaluation_stream, follow_conditions
from plasticity.envs.simulation.keeps_state import KeepsState

CPU = torch.device("cpu")
CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}
MINIMAL = {"asterix": 5, "breakout": 3, "freeway": 3, "seaquest": 6, "space_invaders": 4}


def test_without_the_package_one_line_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(ValueError, match=r"^env=minatar needs the extra minatar, pip install -e '\.\[minatar\]': .* is missing$"):
        MinAtarSettings().build(0, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"game": "pong"}, "game=pong is unknown; choose from asterix, breakout, freeway, seaquest, space_invaders"),
        ({"games": ["breakout", "pong"]}, "games=pong is unknown; the nearest valid names are"),
        ({"sticky_action_prob": 1.5}, r"sticky_action_prob=1\.5 must be between 0 and 1"),
        ({"sticky_action_probs": [0.1, -0.1]}, r"sticky_action_probs=-0\.1 must be between 0 and 1"),
        ({"drift_steps": 5}, "drift_steps=5 needs sticky_action_probs"),
        ({"games": ["breakout"], "sticky_action_probs": [0.1]}, "choose one of the two"),
    ],
)
def test_impossible_settings_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinAtarSettings(**changes).build(0, CPU)


minatar = pytest.importorskip("minatar")


def build(seed: int, **settings: Any) -> EnvironmentStream:
    stream, _ = build_stream(MinAtarSettings(**settings), seed, CPU)
    assert isinstance(stream, EnvironmentStream)
    return stream


@pytest.mark.parametrize("game", GAMES)
def test_gymnasium_checker_finds_nothing_to_warn_of(game: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make("plasticity/MinAtar-v0", game=game).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("game", GAMES)
def test_observations_rewards_and_ends_are_the_packages(game: str) -> None:
    ours = MinAtarEnv(game, sticky_action_prob=0.25)
    first, _ = ours.reset(seed=1)
    theirs = minatar.Environment(game, sticky_action_prob=0.25)
    theirs.seed(int(gymnasium.utils.seeding.np_random(1)[0].integers(2**32)))
    theirs.reset()
    np.testing.assert_array_equal(first, theirs.state().transpose(2, 0, 1))
    rng = np.random.default_rng(0)
    total, ends = 0.0, 0
    for _ in range(3000):
        action = rng.integers(6)
        reward, over = theirs.act(action)
        observation, *given = ours.step(action)
        np.testing.assert_array_equal(observation, theirs.state().transpose(2, 0, 1))
        assert given == [reward, over, False, {}]
        total, ends = total + reward, ends + over
        if over:
            theirs.reset()
            ours.reset()
    assert ends > 0
    assert total > 0 or game == "freeway"


def test_sizes_of_observations_and_action_sets() -> None:
    for game in GAMES:
        full, minimal = MinAtarEnv(game), MinAtarEnv(game, full_action_set=False)
        assert full.observation_space.shape == (CHANNELS[game], 10, 10)
        assert (full.action_space.n, minimal.action_space.n) == (6, MINIMAL[game])  # type: ignore[attr-defined]
    assert max(CHANNELS.values()) == MOST_CHANNELS


def test_a_minimal_action_is_the_action_of_the_package_that_it_stands_for() -> None:
    """Of breakout: nothing, left and right, which are 0, 1 and 3 of the six; the paddle begins in column 4."""
    env = MinAtarEnv("breakout", sticky_action_prob=0.0, full_action_set=False)
    for action, column in ((0, 4), (1, 3), (2, 5)):
        env.reset(seed=0)
        observation, *_ = env.step(np.int64(action))
        assert np.flatnonzero(observation[0, 9]).tolist() == [column]  # channel 0 is the paddle's, in the bottom row


def test_episodes_are_truncated_at_the_limit_unless_they_end_there() -> None:
    env = MinAtarEnv("breakout", max_episode_steps=4)
    env.reset(seed=0)
    assert [env.step(np.int64(0))[2:4] for _ in range(4)] == [(False, False)] * 3 + [(False, True)]
    # without a move the ball, which starts in row 3 at a side, reaches the bottom row in the sixth step, where the paddle is not
    still = MinAtarEnv("breakout", max_episode_steps=6)
    still.reset(seed=0)
    assert [still.step(np.int64(0))[2:4] for _ in range(6)] == [(False, False)] * 5 + [(True, False)]


def test_games_in_sequence_share_ten_channels_and_six_actions(play: Any) -> None:
    stream = build(0, games=["breakout", "seaquest"], steps_per_game=10, num_envs=2)
    seen = play(stream, 12)
    assert [e.task for e in seen] == [0] * 5 + [1] * 5 + [2] * 2
    assert stream.input_shape == (10, 10, 10)
    assert stream.input_dtype == torch.bool
    assert stream.action_space.n == 6  # type: ignore[attr-defined]
    breakout = torch.cat([e.batch.observations for e in seen[:5]])
    assert breakout[:, 3].any()
    assert not breakout[:, 4:].any()
    assert seen[6].batch.observations[:, 7].any()  # the gauge of oxygen of seaquest


@pytest.mark.parametrize("game", GAMES)
def test_a_game_goes_on_bit_for_bit(game: str, goes_on_exactly: Any) -> None:
    assert goes_on_exactly(lambda seed: build(seed, game=game, num_envs=2, max_episode_steps=150), 217, 400)


def test_a_sequence_and_a_drift_go_on_bit_for_bit(goes_on_exactly: Any) -> None:
    games = {"games": ["freeway", "seaquest", "space_invaders"], "steps_per_game": 70}
    # the seed of the run decides how later games begin, so the resumed run has the same one
    assert goes_on_exactly(lambda seed: build(0, num_envs=2, **games), 45, 100)
    sticky = {"sticky_action_probs": [0.0, 0.9], "change_every_steps": 60, "drift_steps": 50, "max_episode_steps": 20}
    for steps in (35, 45, 62):
        assert goes_on_exactly(lambda seed: build(seed, num_envs=2, game="freeway", **sticky), steps, 100)


@pytest.mark.parametrize("game", GAMES)
def test_the_state_of_a_game_is_all_of_it(game: str, through_a_file: Any) -> None:
    """Every attribute is saved or named as fixed, and comes back in the type that the game counts with."""
    env = MinAtarEnv(game)
    env.reset(seed=3)
    rng = np.random.default_rng(1)
    for _ in range(120):
        if env.step(rng.integers(6))[2]:
            env.reset()
    assert isinstance(env, KeepsState)
    state = through_a_file(env.state_dict())
    other = MinAtarEnv(game)
    other.reset(seed=9)
    other.load_state_dict(state)
    ours, theirs = vars(env._game.env), vars(other._game.env)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"random"}:
        np.testing.assert_equal(theirs[name], ours[name])
        assert isinstance(theirs[name], np.ndarray) == isinstance(ours[name], np.ndarray)
    wrong = MinAtarEnv("asterix" if game != "asterix" else "freeway")
    with pytest.raises(ValueError, match=f"saved state is of the game {game}, this one is"):
        wrong.load_state_dict(state)


def test_the_same_seed_gives_the_same_games_and_another_seed_others(play: Any, same: Any) -> None:
    for game in GAMES:
        runs = [play(build(seed, game=game, num_envs=2), 200) for seed in (0, 0, 1)]
        assert all(map(same, runs[0], runs[1]))
        assert not all(map(same, runs[0], runs[2]))


def test_stickiness_changes_between_tasks_or_drifts() -> None:
    """Episodes of ten: changes are due at 20 and 40 and come then; a drift of ten steps moves in a straight line."""

    def chances(drift_steps: int) -> tuple[list[float], list[int]]:
        stream = build(
            0,
            game="freeway",
            sticky_action_probs=[0.0, 0.5],
            change_every_steps=20,
            drift_steps=drift_steps,
            max_episode_steps=10,
        )
        felt, tasks = [], []
        for _ in range(50):
            tasks.append(stream.advance(lambda shown: torch.zeros(len(shown), dtype=torch.int64)).task)
            felt.append(stream.env.envs[0].unwrapped._game.sticky_action_prob)  # type: ignore[attr-defined]
        return felt, tasks

    felt, tasks = chances(0)
    assert felt == [0.0] * 20 + [0.5] * 20 + [0.0] * 10
    assert tasks == [0] * 20 + [1] * 20 + [2] * 10
    felt, tasks = chances(10)
    rise = [0.05 * step for step in range(10)]
    assert felt == pytest.approx([0.0] * 20 + rise + [0.5] * 10 + [0.5 - step for step in rise])
    assert tasks == [0] * 20 + [1] * 20 + [2] * 10


def test_a_sticky_action_is_the_last_one() -> None:
    """With a probability of 1 the paddle of breakout never moves, as the action before the first is to do nothing."""
    env = MinAtarEnv("breakout", sticky_action_prob=1.0)
    env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(np.int64(1))
        assert np.flatnonzero(observation[0, 9]).tolist() == [4]


def test_evaluation_holds_game_and_stickiness(play: Any) -> None:
    games = MinAtarSettings(games=["breakout", "seaquest"], steps_per_game=10)
    source, evaluation = build(0, games=["breakout", "seaquest"], steps_per_game=10), evaluation_stream(games, 0, 2)
    play(source, 12)
    follow_conditions(evaluation, source)
    evaluation.restart(0)
    assert all(e.batch.observations[:, 7].any() for e in play(evaluation, 20))
    values = {"sticky_action_probs": [0.0, 0.5], "change_every_steps": 10, "drift_steps": 10, "max_episode_steps": 5}
    source, evaluation = build(0, **values), evaluation_stream(MinAtarSettings(**values), 0, 2)
    play(source, 14)
    follow_conditions(evaluation, source)
    evaluation.restart(0)
    seen = play(evaluation, 12)
    said = [e.stats["stream/sticky_action_prob"] for e in seen if "stream/sticky_action_prob" in e.stats]
    assert said
    assert said == pytest.approx([0.2] * len(said))


def test_a_picture_has_the_colour_of_each_cells_last_channel() -> None:
    env = MinAtarEnv("breakout", render_mode="rgb_array")
    board, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (160, 160, 3)
    ball = tuple(np.argwhere(board[1])[0])
    paddle, bricks = (9, 4), (1, 5)
    colours = [tuple(picture[16 * row + 7, 16 * column + 7].tolist()) for row, column in (paddle, bricks, (5, 5))]
    assert colours == [(230, 159, 0), (240, 228, 66), (0, 0, 0)]  # channel 0, channel 3, and nothing
    # the ball's trail, channel 2, at first lies where the ball, channel 1, is in row 3, and bricks over both in channel 3
    assert board[:, *ball].tolist() == [False, True, True, True]
    assert tuple(picture[16 * ball[0], 16 * ball[1]].tolist()) == (240, 228, 66)
    assert MinAtarEnv("breakout").render() is None
