"""Which method runs on which agent; ``python -m plasticity.training.config.compatibility`` writes ``docs/interventions.md``.

Every registered method is tried on every kind of agent in a short real run. It works, or it is refused for a reason, which the
table gives; a method that needs a kind of batch or optimizer states this itself.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from plasticity.agents.agent import learn_from
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.training.assembly import assemble
from plasticity.training.config.command_line import compose_config
from plasticity.training.config.settings import plan_from

TABLE: Final = Path(__file__).resolve().parents[2] / "docs" / "interventions.md"
_CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"
_REPLAY: Final = ("agent.buffer_transitions=200", "agent.warmup_env_steps=4", "agent.batch_size=4")
_ROLLOUT: Final = ("agent.rollout_steps=4", "agent.minibatch_size=4", "agent.epochs=1")
_SMALL: Final = ("network.widths=[8,6]", "optimizer.max_gradient_norm=1", "progress=false", "threads=1")
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "supervised": ("agent=supervised", "env=permuted_pixels", "env.examples_per_task=40", "env.batch_size=8"),
    "dqn": ("agent=dqn", "env=catch", *_REPLAY),
    "c51": ("agent=c51", "env=catch", *_REPLAY),
    "rainbow": ("agent=rainbow", "env=catch", "agent.stream_widths=[6]", *_REPLAY),
    "ppo": ("agent=ppo", "env=catch", *_ROLLOUT),
    "ppo, shared": ("agent=ppo", "env=catch", "agent.shared_torso=true", *_ROLLOUT),
    "sac": ("agent=sac", "env=gym", "env.id=Pendulum-v1", *_REPLAY),
}
_STEPS: Final = 14
_WORKS: Final = "works"


def try_out(method: str, config: Mapping[str, Any]) -> str:
    """Runs a few steps of a config with one method; returns ``works``, or the reason why it is refused."""
    defaults = OmegaConf.to_container(OmegaConf.structured(INTERVENTIONS[method]))
    try:
        with redirect_stderr(StringIO()):
            agent, stream, _ = assemble(plan_from({**config, "interventions": {method: defaults}}))
            for _ in range(_STEPS):
                task, experience = stream.task, stream.advance(agent.act)
                if experience.task != task:
                    agent.switch_task(experience.task)
                learn_from(agent, experience, stream.step)
            stream.close()
    except ValueError as error:
        return str(error)
    return _WORKS


def table() -> str:
    """Returns the whole document."""
    configs = {kind: compose_config([*words, *_SMALL], _CONFIGS) for kind, words in KINDS.items()}
    methods = [name for name, cls in INTERVENTIONS.items() if cls.__module__.startswith("plasticity.interventions.")]
    outcomes = {method: {kind: try_out(method, config) for kind, config in configs.items()} for method in methods}
    return "\n".join([*_head(), *_rows(outcomes), "", *_reasons(outcomes), *_conflicts(methods)]).rstrip() + "\n"


def _head() -> Iterator[str]:
    yield "# Interventions and agents"
    yield ""
    yield "Made by `python -m plasticity.training.config.compatibility`, which tries every method with its default settings"
    yield "on every kind of agent, on a network with two hidden layers and Adam; `--check` tells whether it is up to date. What a"
    yield "method does, from which paper, and where it deviates, is on its card: the docstring in `interventions/methods/`."
    yield ""
    yield "| method | " + " | ".join(KINDS) + " | acts on | what it does |"
    yield "|---" * (len(KINDS) + 3) + "|"


def _rows(outcomes: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for method, by_kind in outcomes.items():
        cells = ["works" if outcome == _WORKS else "refuses" for outcome in by_kind.values()]
        cls = INTERVENTIONS[method]
        yield f"| `{method}` | " + " | ".join(cells) + f" | {_hooks(cls)} | {_summary(cls)} |"


def _hooks(cls: type[Intervention]) -> str:
    """Returns at which points of an update a method acts."""
    names = {
        "build": "structure",
        "loss": "loss",
        "term": "loss",
        "after_backward": "gradient",
        "edit_gradients": "gradient",
        "measure": "statistics",
        "after_step": "weights",
        "task_switch": "task switch",
        "sample_weights": "replay",
        "evaluation_network": "evaluation",
    }
    own = [said for hook, said in names.items() if getattr(cls, hook) is not getattr(Intervention, hook)]
    return ", ".join(dict.fromkeys(own))


def _summary(cls: type[Intervention]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")


def _reasons(outcomes: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    told = {
        f"- `{method}` on {kind}: {why}" for method, kinds in outcomes.items() for kind, why in kinds.items() if why != _WORKS
    }
    if told:
        yield "## Refused, and why"
        yield ""
        yield from sorted(told)
        yield ""


def _conflicts(methods: list[str]) -> Iterator[str]:
    pairs = [f"- `{one}` with `{two}`: {why}" for one in methods for two, why in sorted(INTERVENTIONS[one].conflicts.items())]
    yield "## Pairs that refuse each other"
    yield ""
    yield from pairs or ["None."]


def main(words: Sequence[str]) -> int:
    """Writes the table and prints its path; with ``--check`` the exit code states whether it is up to date."""
    if "--check" in words:
        current = TABLE.is_file() and TABLE.read_text() == table()
        print(f"{TABLE} is {'up to date' if current else 'out of date; run python -m plasticity.training.config.compatibility'}")
        return 0 if current else 1
    text = table()
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text)
    print(TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
