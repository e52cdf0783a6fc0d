"""What is timed: agents under the settings that other projects are compared with."""

from dataclasses import dataclass
from typing import Final

_ATARI: Final = ("threads=1", "env=demon_attack", "env.protocol=baselines", "env.num_threads=1", "network=nature_cnn")
_FROM_PIXELS: Final = (
    *_ATARI,
    "agent.batch_size=32",
    "agent.env_steps_per_update=4",
    "agent.warmup_env_steps=1000",
    "agent.buffer_transitions=20000",
    "agent.target_every_updates=250",
    "agent.epsilon_env_steps=1000",
    "agent.epsilon_end=0.05",
    "optimizer.learning_rate=1e-4",
)
_RAINBOW: Final = (*_FROM_PIXELS, "agent.epsilon_end=0.0", "network.widths=[]")  # every dense layer is one of the streams
_PPO_ATARI: Final = (
    *_ATARI,
    "agent=ppo",
    "env.num_envs=8",
    "agent.shared_torso=true",
    "agent.rollout_steps=128",
    "agent.minibatch_size=256",
    "agent.epochs=4",
    "agent.clip=0.1",
    "agent.clip_value=0.1",
    "agent.entropy_coefficient=0.01",
    "network.initialiser=orthogonal",
    "optimizer.learning_rate=2.5e-4",
    "optimizer.epsilon=1e-5",
    "optimizer.max_gradient_norm=0.5",
)
_PPO_ANT: Final = (
    "threads=1",
    "agent=ppo",
    "env=ant",
    "env.normalise_observations=true",
    "env.normalise_rewards=true",
    "agent.rollout_steps=2048",
    "agent.minibatch_size=64",
    "agent.epochs=10",
    "network.widths=[64,64]",
    "network.activations=[tanh]",
    "network.initialiser=orthogonal",
    "optimizer.learning_rate=3e-4",
    "optimizer.epsilon=1e-5",
    "optimizer.max_gradient_norm=0.5",
)
_SAC_ANT: Final = (
    "threads=1",
    "agent=sac",
    "env=ant",
    "agent.batch_size=256",
    "agent.warmup_env_steps=1000",
    "agent.buffer_transitions=100000",
    "network.widths=[256,256]",
    "optimizer.learning_rate=3e-4",
)


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        title: What is compared.
        variants: Words of the testbed's command line by label.
        reference: Name of the programs to compare with, in ``benchmarks.bare`` and ``benchmarks.stable_baselines``.
        steps: Environment steps of one round.
    """

    title: str
    variants: dict[str, tuple[str, ...]]
    reference: str
    steps: int


_FP32, _BF16, _COMPILED = "testbed", "testbed, precision=bf16", "testbed, compile=true"


def _row(title: str, words: tuple[str, ...], reference: str, steps: int, *others: tuple[str, str]) -> Row:
    variants = {_FP32: words, **{label: (*words, word) for label, word in others}}
    return Row(title, variants, reference, steps)


ROWS: Final[dict[str, Row]] = {
    "dqn": _row("DQN, Demon Attack", ("agent=dqn", *_FROM_PIXELS), "dqn", 400, (_BF16, "precision=bf16")),
    "c51": _row("C51, Demon Attack", ("agent=c51", *_FROM_PIXELS), "c51", 400),
    "rainbow": _row("Rainbow, Demon Attack", ("agent=rainbow", *_RAINBOW), "rainbow", 200),
    "ppo_atari": _row("PPO, Demon Attack, 8 environments", _PPO_ATARI, "ppo_atari", 1024, (_COMPILED, "compile=true")),
    "ppo_ant": _row("PPO, Ant-v5", _PPO_ANT, "ppo_ant", 2048, (_COMPILED, "compile=true")),
    "sac": _row("SAC, Ant-v5", _SAC_ANT, "sac_ant", 200, (_COMPILED, "compile=true")),
}
