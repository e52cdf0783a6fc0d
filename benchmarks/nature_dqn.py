"""DQN on inputs of the size of Atari's, (4, 84, 84), with the network of Mnih et al. 2015 and batches of 32."""

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.alternate import alternate, table
from plasticity.agents.dqn.agent import DQN
from plasticity.agents.dqn.settings import DQNSettings
from plasticity.agents.parts import PartBuilder
from plasticity.envs.experience import Experience, Transitions
from plasticity.networks.torsos.feedforward import NatureCNNSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution

_ACTIONS, _BATCH, _UPDATES = 6, 32, 10


def nature_dqn(rounds: int) -> str:
    """Times a bare PyTorch update, and the agent's in both precisions."""
    programs = {
        "bare PyTorch loop, default Adam": bare_updates(),
        "agent, fp32": updates(None, compile=False),
        "agent, bf16": updates(torch.bfloat16, compile=False),
        "agent, fp32, compile=true": updates(None, compile=True),
    }
    seconds = alternate(programs, rounds)
    return table("DQN update, Nature CNN, batch 32", seconds, _UPDATES, "updates", {"bare loop": next(iter(programs))})


def bare_updates() -> Callable[[], None]:
    """Returns what a script would do: targets from a second network, squared error, backward, step."""

    def network() -> nn.Sequential:
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU()]
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, _ACTIONS))

    online, target = network(), network()
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-4)
    data = _transitions(256)

    def program() -> None:
        for _ in range(_UPDATES):
            rows = torch.randint(256, (_BATCH,))
            with torch.no_grad():
                best = target(data.next_observations[rows].float() / 255).amax(1)
                goal = data.rewards[rows] + 0.99 * best * ~data.terminated[rows]
            values = online(data.observations[rows].float() / 255).gather(1, data.actions[rows].unsqueeze(1)).squeeze(1)
            loss = (values - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return program


def updates(autocast: torch.dtype | None, compile: bool) -> Callable[[], None]:
    """Returns the agent's updates, sampling from its replay included."""
    builder = PartBuilder(
        NatureCNNSpec(widths=[512]),
        (4, 84, 84),
        torch.uint8,
        OptimizerSettings(learning_rate=1e-4),
        execution=Execution(autocast, compile),
    )
    agent = DQN(DQNSettings(batch_size=_BATCH, buffer_transitions=256, warmup_env_steps=256), _ACTIONS, builder)
    agent.learn(Experience(_transitions(256), 0))
    one = Experience(_transitions(1), 0)

    def program() -> None:
        for _ in range(_UPDATES):
            agent.learn(one)

    return program


def _transitions(count: int) -> Transitions:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, count, 4, 84, 84), dtype=torch.uint8, generator=generator)
    actions = torch.randint(_ACTIONS, (count,), generator=generator)
    no = torch.zeros(count, dtype=torch.bool)
    return Transitions(images[0], actions, torch.ones(count), no, no, images[1])
