from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv

from plasticity.envs.environments.atari import AtariSettings, AtariVector, protocol_line
from plasticity.envs.environments.environment_stream import EnvironmentStream
from plasticity.envs.factory import build_stream

CPU = torch.device("cpu")


def game(name: str = "breakout", seed: int = 0, **settings: Any) -> EnvironmentStream:
    stream, _ = AtariSettings(game=name, num_threads=1, **settings).build(seed, CPU)
    assert isinstance(stream, EnvironmentStream)
    return stream


@pytest.mark.parametrize(
    ("protocol", "sticky", "noops", "fire", "life"),
    [("dopamine", 0.25, 0, False, False), ("dqn2015", 0.0, 30, False, True), ("baselines", 0.0, 30, True, True)],
)
def test_settings_hold_what_the_protocol_says(protocol: str, sticky: float, noops: int, fire: bool, life: bool) -> None:
    settings = AtariSettings(protocol=protocol)
    assert (settings.sticky_action_probability, settings.noop_max) == (sticky, noops)
    assert (settings.fire_on_reset, settings.life_loss_terminates) == (fire, life)
    assert (settings.max_episode_frames, settings.frame_skip, settings.clip_rewards) == (108_000, 4, True)
    assert None not in asdict(settings).values()
    assert f"sticky_action_probability={sticky} noop_max={noops}" in protocol_line(settings)


def test_a_setting_wins_over_the_protocol() -> None:
    settings = AtariSettings(protocol="dqn2015", sticky_action_probability=0.25, life_loss_terminates=False)
    assert (settings.sticky_action_probability, settings.life_loss_terminates, settings.noop_max) == (0.25, False, 30)


def test_the_problem_of_a_game() -> None:
    stream, problem = build_stream(AtariSettings(game="demon_attack", num_envs=2), 0, CPU)
    assert problem[:6] == ("environment", 6, True, False, (), ())
    assert problem.frame_stack == 4
    assert (stream.input_shape, stream.input_dtype) == ((4, 84, 84), torch.uint8)
    assert build_stream(AtariSettings(full_action_set=True), 0, CPU)[1].outputs == 18


def test_the_time_limit_counts_frames(play: Any) -> None:
    """400 frames of 4 a decision are 100 decisions; dopamine waits no frames at the start, but one is shown."""
    stream = game("pong", max_episode_frames=400)
    seen = play(stream, 100)
    ends = [step for step, e in enumerate(seen, 1) if bool(e.batch.truncated[0])]
    assert ends == [100]
    assert not any(bool(e.batch.terminated[0]) for e in seen)
    assert seen[-1].stats["rollout/length"].tolist() == [100.0]


@pytest.mark.parametrize("protocol", ["dopamine", "dqn2015", "baselines"])
def test_final_observations_go_on_from_those_before(protocol: str, play: Any) -> None:
    stream = game(protocol=protocol, num_envs=2)
    seen = play(stream, 420)
    terminals, games, lives = 0, 0, 0
    for now, then in pairwise(seen):
        assert torch.equal(now.batch.next_observations[:, :3], now.batch.observations[:, 1:])
        for row in range(2):
            if not now.batch.terminated[row]:
                assert torch.equal(then.batch.observations[row], now.batch.next_observations[row])
                continue
            terminals += 1
            begun = not then.batch.observations[row, 0].any()  # zeros from before the reset
            games += int(begun)
            if not begun:
                lives += 1
                assert torch.equal(then.batch.observations[row], now.batch.next_observations[row])
    assert terminals >= 3
    assert games >= 1
    assert (lives > 0) == (protocol != "dopamine")
    reported = sum(len(e.stats.get("rollout/return", ())) for e in seen[:-1])
    assert reported == games


@pytest.mark.parametrize(("protocol", "rewards"), [("dopamine", {0.0, 1.0}), ("dqn2015", {0.0, 1.0})])
def test_rewards_are_clipped_and_returns_are_not(protocol: str, rewards: set[float], play: Any) -> None:
    """Space Invaders pays 5 to 30 a hit; the frame limit ends the game in time."""
    clipped, plain = (
        play(game("space_invaders", protocol=protocol, max_episode_frames=1600, clip_rewards=clip), 405) for clip in (True, False)
    )
    assert {float(e.batch.rewards[0]) for e in clipped} == rewards
    assert clipped[0].batch.rewards.dtype == torch.float32
    assert all(torch.equal(a.batch.rewards, b.batch.rewards.sign()) for a, b in zip(clipped, plain, strict=True))
    (end,) = [step for step, e in enumerate(clipped) if "rollout/return" in e.stats]
    score = sum(float(e.batch.rewards[0]) for e in plain[: end + 1])
    assert clipped[end].stats["rollout/return"].tolist() == plain[end].stats["rollout/return"].tolist() == [score]
    assert score >= 5 * sum(float(e.batch.rewards[0]) for e in clipped[: end + 1]) > 0


def test_the_seed_decides_the_stream_for_any_number_of_threads(play: Any, same: Any) -> None:
    first = play(game(num_envs=2, seed=1), 60)
    threaded, _ = AtariSettings(num_envs=2, num_threads=2).build(1, CPU)
    assert all(map(same, first, play(threaded, 60)))
    assert not all(map(same, first, play(game(num_envs=2, seed=2), 60)))


def test_a_vector_equals_single_games() -> None:
    both = AtariVector("breakout", AtariSettings(num_envs=2, num_threads=1))
    singles = [AtariVector("breakout", AtariSettings(num_threads=1)) for _ in range(2)]
    observations, _ = both.reset(seed=11)
    parts = [single.reset(seed=11 + row)[0] for row, single in enumerate(singles)]
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(220):
        np.testing.assert_array_equal(observations, np.concatenate(parts))
        actions = rng.integers(4, size=2)
        observations, rewards, terminated, truncated, info = both.step(actions)
        for row, single in enumerate(singles):
            part, reward, end, cut, own = single.step(actions[row : row + 1])
            parts[row] = np.array(part)
            assert (reward[0], end[0], cut[0]) == (rewards[row], terminated[row], truncated[row])
            if end[0]:
                ends += 1
                np.testing.assert_array_equal(own["final_obs"][0], info["final_obs"][row])
    assert ends >= 1


def test_a_resumed_run_begins_its_games_anew(play: Any) -> None:
    stream, first, again = game(), game(), game()
    assert not stream.exact_resume
    play(stream, 30)
    state = stream.state_dict()
    for resumed in (first, again):
        resumed.load_state_dict(state)
    assert first.step == 30
    batches = [play(resumed, 1)[0].batch for resumed in (first, again)]
    assert not batches[0].observations[0, :3].any()
    assert torch.equal(batches[0].observations, batches[1].observations)


def test_other_vector_environments_keep_their_own_mode() -> None:
    game().close()
    assert "autoreset_mode" not in VectorEnv.metadata


def test_a_sequence_of_games_has_all_actions_and_true_final_observations(play: Any) -> None:
    settings = AtariSettings(games=["pong", "breakout"], steps_per_game=60, num_envs=2, num_threads=1)
    stream, problem = build_stream(settings, 0, CPU)
    assert (problem.outputs, problem.announces_tasks, settings.full_action_set) == (18, True, True)
    seen = play(stream, 100)
    assert [e.task for e in seen] == [0] * 30 + [1] * 30 + [2] * 30 + [3] * 10
    assert [step for step, e in enumerate(seen, 1) if e.batch.truncated.all()] == [30, 60, 90]
    assert all(torch.equal(e.batch.next_observations[:, :3], e.batch.observations[:, 1:]) for e in seen)
    assert all(not seen[begin].batch.observations[:, :3].any() for begin in (30, 60, 90))
    assert [e.stats["stream/task"] for e in seen if "stream/task" in e.stats] == [0, 1, 2, 3]
    assert not build_stream(AtariSettings(games=["pong"], announce_tasks=False), 0, CPU)[1].announces_tasks


def test_a_resumed_sequence_goes_on_in_its_game(play: Any) -> None:
    settings = AtariSettings(games=["pong", "breakout"], steps_per_game=20, num_threads=1)
    stream, resumed = (build_stream(settings, 0, CPU)[0] for _ in range(2))
    play(stream, 30)
    resumed.load_state_dict(stream.state_dict())
    assert isinstance(resumed, EnvironmentStream)
    assert not resumed.exact_resume
    assert [e.task for e in play(resumed, 12)] == [1] * 10 + [2] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"game": "demonattack"}, "game=demonattack is unknown; the nearest valid names are demon_attack"),
        ({"game": "Breakout"}, "game=Breakout is unknown; the nearest valid names are breakout"),
        ({"games": ["pong", "brakeout"]}, "games=brakeout is unknown; the nearest valid names are breakout"),
        ({"protocol": "nature"}, "protocol=nature is unknown; choose from dopamine, dqn2015, baselines"),
        ({"sticky_action_probability": 1.5}, r"env\.sticky_action_probability=1\.5 must be between 0 and 1"),
        ({"num_envs": 0}, "num_envs=0 must be at least 1"),
        ({"max_episode_frames": 0}, "max_episode_frames=0 must be at least 1"),
    ],
)
def test_impossible_settings_get_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_stream(AtariSettings(**settings), 0, CPU)
