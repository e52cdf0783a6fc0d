"""The same work by Stable-Baselines3, where it is installed; it is no dependency of the testbed."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

_FROM_PIXELS: Final = ("dqn", "ppo_atari")
_REFERENCES: Final = (*_FROM_PIXELS, "ppo_ant", "sac_ant")


def available(reference: str) -> bool:
    """Whether the program exists and can run here; images need OpenCV as well."""
    packages = ["stable_baselines3", *(["cv2"] if reference in _FROM_PIXELS else [])]
    return reference in _REFERENCES and all(find_spec(package) is not None for package in packages)


def stable_baselines(reference: str, steps: int) -> Callable[[], object]:
    """Returns a program that trains for ``steps`` more steps, past its warm-up."""
    model = _MODELS[reference]()
    if reference in ("dqn", "sac_ant"):
        model.learn(1000, reset_num_timesteps=False)
    return lambda: model.learn(steps, reset_num_timesteps=False)


def _library() -> Any:
    return import_module("stable_baselines3")


def _images(copies: int) -> Any:
    import_module("gymnasium").register_envs(import_module("ale_py"))
    made = import_module("stable_baselines3.common.env_util").make_atari_env("DemonAttackNoFrameskip-v4", n_envs=copies)
    return import_module("stable_baselines3.common.vec_env").VecFrameStack(made, n_stack=4)


def _ant() -> Any:
    vectors = import_module("stable_baselines3.common.vec_env")
    return vectors.DummyVecEnv([lambda: import_module("gymnasium").make("Ant-v5")])


def _dqn() -> Any:
    return _library().DQN(
        "CnnPolicy",
        _images(1),
        buffer_size=20_000,
        learning_starts=1000,
        train_freq=4,
        target_update_interval=1000,
        exploration_fraction=1e-9,
        exploration_final_eps=0.05,
        device="cpu",
    )


def _ppo_atari() -> Any:
    settings = {"n_steps": 128, "batch_size": 256, "n_epochs": 4, "learning_rate": 2.5e-4, "clip_range": 0.1}
    return _library().PPO("CnnPolicy", _images(8), ent_coef=0.01, device="cpu", **settings)


def _ppo_ant() -> Any:
    normalised = import_module("stable_baselines3.common.vec_env").VecNormalize(_ant())
    return _library().PPO("MlpPolicy", normalised, n_steps=2048, batch_size=64, n_epochs=10, device="cpu")


def _sac_ant() -> Any:
    return _library().SAC("MlpPolicy", _ant(), buffer_size=100_000, learning_starts=1000, batch_size=256, device="cpu")


_MODELS: Final[dict[str, Callable[[], Any]]] = {"dqn": _dqn, "ppo_atari": _ppo_atari, "ppo_ant": _ppo_ant, "sac_ant": _sac_ant}
