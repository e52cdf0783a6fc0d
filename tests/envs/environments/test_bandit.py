import io
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from plasticity.envs.datasets.datasets import Dataset, load_dataset
from plasticity.envs.environments.bandit import BANDIT_ID, BanditSettings, ContextualBanditEnv, ContextualBanditVectorEnv
from plasticity.envs.environments.bandit_labels import BanditLabels, label_order
from plasticity.envs.experience import Transitions


def pictures(count: int = 40, dtype: torch.dtype = torch.uint8) -> Dataset:
    """Image i is filled with the value i (or i / 100) and has label i % 4, so an observation tells which image it is."""
    values = torch.arange(count).reshape(count, 1, 1, 1).expand(count, 1, 2, 3)
    inputs = values.to(torch.uint8) if dtype == torch.uint8 else values.to(dtype) / 100
    return Dataset("pictures", inputs.contiguous(), torch.arange(count) % 4, 4)


def test_gymnasium_checker_finds_nothing_to_warn_of() -> None:
    made = gymnasium.make(BANDIT_ID).unwrapped
    assert made.observation_space == gymnasium.spaces.Box(0.0, 1.0, (1, 8, 8), np.float32)
    coloured = gymnasium.make(BANDIT_ID, dataset=pictures()).unwrapped
    assert coloured.observation_space == gymnasium.spaces.Box(0, 255, (1, 2, 3), np.uint8)
    for env in (made, coloured):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env)


def test_reward_is_alpha_for_the_label_and_zero_otherwise() -> None:
    env = ContextualBanditEnv(pictures(), reward=2.5)
    observation, _ = env.reset(seed=1)
    for step in range(50):
        label = int(observation[0, 0, 0]) % 4
        wrong = step % 2
        observation, reward, terminated, _, _ = env.step(np.int64((label + wrong) % 4))
        assert reward == (0.0 if wrong else 2.5)
        assert not terminated


def test_episodes_are_truncated_at_their_length_only() -> None:
    env = ContextualBanditEnv(pictures(), episode_steps=3)
    for _ in range(2):
        env.reset(seed=0)
        assert [env.step(np.int64(0))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_images_are_drawn_uniformly_for_any_action() -> None:
    env = ContextualBanditVectorEnv(num_envs=200, dataset=pictures())
    observations, _ = env.reset(seed=0)
    drawn = [observations[:, 0, 0, 0]]
    for step in range(99):
        observations, *_ = env.step(np.full(200, step % 4))
        drawn.append(observations[:, 0, 0, 0])
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert counts.sum() == 20_000
    # 500 expected of each of 40 images; six standard deviations of a binomial count are 132
    assert np.abs(counts - 500).max() < 132


def test_one_vector_environment_equals_the_single_one_step_by_step() -> None:
    single = ContextualBanditEnv(pictures(), reward=0.5, episode_steps=5)
    vector = ContextualBanditVectorEnv(1, pictures(), reward=0.5, episode_steps=5)
    expected, _ = single.reset(seed=7)
    observed, _ = vector.reset(seed=7)
    for step in range(23):
        np.testing.assert_array_equal(observed[0], expected)
        expected, reward, terminated, truncated, _ = single.step(np.int64(step % 4))
        observed, rewards, terminations, truncations, info = vector.step(np.array([step % 4]))
        assert (reward, terminated, truncated) == (rewards[0], terminations[0], truncations[0])
        if truncated:
            np.testing.assert_array_equal(info["final_obs"][0], expected)
            assert info["_final_obs"].tolist() == [True]
            expected, _ = single.reset()
        else:
            assert info == {}


def test_vector_rewards_follow_each_row() -> None:
    env = ContextualBanditVectorEnv(4, pictures(), reward=3.0)
    observations, _ = env.reset(seed=3)
    labels = observations[:, 0, 0, 0].astype(np.int64) % 4
    _, rewards, terminated, truncated, _ = env.step((labels + np.array([0, 1, 0, 2])) % 4)
    assert rewards.tolist() == [3.0, 0.0, 3.0, 0.0]
    assert not terminated.any()
    assert not truncated.any()


def test_make_vec_uses_the_vectorised_form() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make_vec(BANDIT_ID, num_envs=4, vectorization_mode="vector_entry_point", episode_steps=2)
    assert isinstance(env, ContextualBanditVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (4, 1, 8, 8)
    assert env.action_space == gymnasium.spaces.MultiDiscrete([10] * 4)
    observations, _ = env.reset(seed=0)
    assert observations in env.observation_space
    env.step(env.action_space.sample())
    following, _, _, truncated, info = env.step(env.action_space.sample())
    assert truncated.all()
    assert info["final_obs"].shape == following.shape
    assert not np.array_equal(info["final_obs"], following)


def run(env: ContextualBanditVectorEnv, steps: int) -> list[Any]:
    record = []
    for step in range(steps):
        observations, rewards, _, truncated, info = env.step(np.arange(3) + step % 2)
        record.append((observations.tolist(), rewards.tolist(), truncated.tolist(), str(info.get("final_obs"))))
    return record


def test_a_saved_state_goes_on_exactly_and_needs_no_code_to_load() -> None:
    env = ContextualBanditVectorEnv(3, pictures(), episode_steps=4)
    env.reset(seed=5)
    run(env, 6)
    buffer = io.BytesIO()
    torch.save(env.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    expected = run(env, 11)
    resumed = ContextualBanditVectorEnv(3, pictures(), episode_steps=4)
    resumed.load_state_dict(state)
    assert run(resumed, 11) == expected


def test_a_state_that_does_not_fit_is_refused() -> None:
    env = ContextualBanditVectorEnv(3, pictures(), episode_steps=4)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.state_dict()
    env.reset(seed=5)
    run(env, 3)
    state = env.state_dict()
    with pytest.raises(ValueError, match="saved state has 3 environments, this one has 2"):
        ContextualBanditVectorEnv(2, pictures()).load_state_dict(state)
    with pytest.raises(ValueError, match=r"saved state shows image .* the data set has 2"):
        ContextualBanditVectorEnv(3, pictures(2)).load_state_dict(state)
    with pytest.raises(ValueError, match="saved state is 3 steps into an episode of 3"):
        ContextualBanditVectorEnv(3, pictures(), episode_steps=3).load_state_dict(state)


def test_different_seeds_differ_and_equal_seeds_agree() -> None:
    def images(seed: int) -> list[int]:
        env = ContextualBanditVectorEnv(8, pictures())
        observations: list[int] = env.reset(seed=seed)[0][:, 0, 0, 0].tolist()
        return observations

    assert images(1) == images(1)
    assert images(1) != images(2)


def test_permuted_labels_are_never_the_classes_as_they_are_and_depend_on_seed_and_number() -> None:
    assert label_order(4, 0, 7).tolist() == [0, 1, 2, 3]
    # of two classes there is one other order, however often the draw is the identity
    assert [label_order(2, number, 0).tolist() for number in range(1, 30)] == [[1, 0]] * 29
    drawn = [[label_order(10, number, seed).tolist() for number in (1, 2)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
    assert drawn[0][0] != drawn[0][1]
    assert all(sorted(order) == list(range(10)) for pair in drawn for order in pair)


def test_permuted_labels_pay_as_the_permutation_says_in_every_copy_and_in_the_single_one() -> None:
    assert label_order(4, 1, 0).tolist() == [3, 1, 2, 0]
    right = {0: 3, 1: 1, 2: 2, 3: 0}  # image i is of class i % 4
    vector = ContextualBanditVectorEnv(3, pictures(), reward=2.0, episode_steps=4, label_permutation=1)
    single = ContextualBanditEnv(pictures(), reward=2.0, episode_steps=4, label_permutation=1)
    observations, _ = vector.reset(seed=7)
    observation, _ = single.reset(seed=7)
    for step in range(20):
        answers = np.array([right[int(image) % 4] for image in observations[:, 0, 0, 0]])
        observations, rewards, *_ = vector.step((answers + np.arange(3)) % 4)
        assert rewards.tolist() == [2.0, 0.0, 0.0]
        answer = np.int64((right[int(observation[0, 0, 0]) % 4] + step % 2) % 4)
        observation, reward, *_ = single.step(answer)
        assert reward == (0.0 if step % 2 else 2.0)


def test_permuted_labels_leave_the_images_as_they_are_and_a_saved_state_takes_the_new_ones() -> None:
    plain, permuted = (ContextualBanditVectorEnv(3, pictures(), episode_steps=4, label_permutation=n) for n in (0, 2))
    for env in (plain, permuted):
        env.reset(seed=5)
    before, after = run(plain, 9), run(permuted, 9)
    assert [row[0] for row in before] == [row[0] for row in after]
    assert [row[1] for row in before] != [row[1] for row in after]
    state, expected = permuted.state_dict(), run(permuted, 11)
    resumed = ContextualBanditVectorEnv(3, pictures(), episode_steps=4, label_permutation=2)
    resumed.load_state_dict(state)
    assert run(resumed, 11) == expected
    # from the state of the plain one, which stood at the same image, the labels are the permuted ones
    branched = ContextualBanditVectorEnv(3, pictures(), episode_steps=4, label_permutation=2)
    branched.load_state_dict(plain.state_dict())
    assert run(branched, 11) == expected


def test_labels_drift_from_those_before_to_the_new_ones_by_a_chance_that_grows_linearly() -> None:
    """A drift of 4000 steps in four copies: 1000 steps together, in whose quarters the mean chance is 1/8, 3/8, 5/8 and 7/8."""
    env = ContextualBanditVectorEnv(4, pictures(), label_permutation=1, drift_steps=4000)
    plain = ContextualBanditVectorEnv(4, pictures())
    observations, _ = env.reset(seed=3)
    shown, _ = plain.reset(seed=3)
    right = label_order(4, 1, 0)
    assert right.tolist() == [3, 1, 2, 0]  # classes 1 and 2 keep their labels
    paid = np.zeros((1100, 4))
    moved = np.zeros((1100, 4), bool)
    for step in range(1100):
        np.testing.assert_array_equal(observations, shown)
        classes = observations[:, 0, 0, 0].astype(np.int64) % 4
        moved[step] = (classes == 0) | (classes == 3)
        observations, paid[step], *_ = env.step(right[classes])
        shown, *_ = plain.step(classes)
    assert paid[~moved].all()
    assert not paid[0][moved[0]].any()
    assert paid[1000:].all()
    for quarter, expected in enumerate((0.125, 0.375, 0.625, 0.875)):
        rows = slice(250 * quarter, 250 * quarter + 250)
        drawn = paid[rows][moved[rows]]
        assert len(drawn) > 400
        assert abs(drawn.mean() - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5


def test_one_vector_environment_drifts_as_the_single_one() -> None:
    single = ContextualBanditEnv(pictures(), label_permutation=2, drift_steps=40)
    vector = ContextualBanditVectorEnv(1, pictures(), label_permutation=2, drift_steps=40)
    observation, _ = single.reset(seed=7)
    vector.reset(seed=7)
    rewards = []
    for _ in range(60):
        answer = int(observation[0, 0, 0]) % 4
        observation, reward, *_ = single.step(np.int64(answer))
        assert vector.step(np.array([answer]))[1] == [reward]
        rewards.append(reward)
    assert 0 < sum(rewards) < 60


def test_a_drift_resumes_exactly_and_begins_where_a_branch_does() -> None:
    def made(number: int, drift_steps: int = 60) -> ContextualBanditVectorEnv:
        return ContextualBanditVectorEnv(3, pictures(), episode_steps=7, label_permutation=number, drift_steps=drift_steps)

    env = made(2)
    env.reset(seed=5)
    run(env, 6)
    state, expected = env.state_dict(), run(env, 20)
    resumed = made(2)
    resumed.reset(seed=8)
    resumed.load_state_dict(state)
    assert resumed.labels.share == 18 / 60
    assert run(resumed, 20) == expected
    # a parent without a drift, and with other labels: those are what the drift begins with
    for number in (0, 1):
        parent, branch = made(number, 0), made(2)
        parent.reset(seed=5), branch.reset(seed=5)
        run(parent, 6)
        branch.load_state_dict(parent.state_dict())
        assert branch.labels.share == 0.0
        assert run(branch, 1) == run(parent, 1)
        assert branch.labels.share == 3 / 60
    # labels that stay the same have nowhere to go, however long the drift is
    parent, branch = made(2, 0), made(2)
    parent.reset(seed=5)
    run(parent, 6)
    branch.load_state_dict(parent.state_dict())
    assert run(branch, 20) == run(parent, 20)


def test_a_state_from_before_there_were_permutations_has_the_labels_as_they_are() -> None:
    env = ContextualBanditVectorEnv(3, pictures())
    env.reset(seed=5)
    state = {key: value for key, value in env.state_dict().items() if key != "labels"}
    changed = ContextualBanditVectorEnv(3, pictures(), label_permutation=1, drift_steps=9)
    changed.load_state_dict(state)
    assert run(changed, 1) == run(env, 1)


def test_evaluation_keeps_the_chance_that_training_has() -> None:
    labels = [BanditLabels(np.arange(4), 4, 1, 0, drift) for drift in (4, 4)]
    labels[0].of(np.zeros(3, np.int64))
    labels[1].follow(labels[0])
    assert labels[1].share == 0.75
    drawn = labels[1].of(np.zeros(1000, np.int64))
    assert labels[1].share == 0.75
    assert abs((drawn == 3).mean() - 0.75) < 0.055  # four standard errors; class 0 is paid as 3 under the permutation


def test_the_seed_of_the_run_chooses_the_permutation() -> None:
    digits = load_dataset("digits")
    for seed in (3, 4):
        order = torch.from_numpy(label_order(10, 1, seed))
        stream, _ = BanditSettings(num_envs=20, label_permutation=1).build(seed, torch.device("cpu"))

        def answers(shown: torch.Tensor, order: torch.Tensor = order) -> torch.Tensor:
            same = (shown[:, None] == digits.inputs).flatten(2).all(2)
            return order[digits.targets[same.int().argmax(1)]]

        transitions = stream.advance(answers).batch
        assert isinstance(transitions, Transitions)
        assert transitions.rewards.tolist() == [1.0] * 20


@pytest.mark.parametrize("kind", [ContextualBanditEnv, ContextualBanditVectorEnv])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_permutation": -1}, "label_permutation must be 0 or more, got -1"),
        ({"drift_steps": -1}, "drift_steps must be 0 or more, got -1"),
        ({"reward": float("nan")}, "reward must be finite, got nan"),
        ({"episode_steps": 0}, "episode_steps must be at least 1, got 0"),
        ({"dataset": "digit"}, r"dataset=digit is unknown \(did you mean digits\?\)"),
    ],
)
def test_impossible_settings_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_impossible_actions_are_refused() -> None:
    env = ContextualBanditVectorEnv(2, pictures())
    single = ContextualBanditEnv(pictures())
    for unready in (lambda: env.step(np.zeros(2, np.int64)), lambda: single.step(np.int64(0))):
        with pytest.raises(gymnasium.error.ResetNeeded):
            unready()
    env.reset(seed=0)
    single.reset(seed=0)
    with pytest.raises(ValueError, match=r"actions must lie in 0\.\.3, got 0\.\.4"):
        env.step(np.array([0, 4]))
    with pytest.raises(ValueError, match=r"actions must lie in 0\.\.3, got -1\.\.0"):
        env.step(np.array([0, -1]))
    with pytest.raises(ValueError, match=r"actions must be \(2,\) integers, got \(3,\)"):
        env.step(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"actions must be \(2,\) integers, got \(2,\) float64"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"action must be an integer in 0\.\.3"):
        single.step(np.int64(4))
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        ContextualBanditVectorEnv(0, pictures())
