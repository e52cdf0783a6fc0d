"""DQN on CartPole in one file, as CleanRL writes it, with ReDo: the line with ``adopt`` is the only one that is added.

Run with gymnasium 1.4.0, torch 2.13.0, numpy 2.4.6. (The line with ``measure`` says how many units are dormant.)
"""

import random

import gymnasium
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from plasticity.adopt import AdoptedOptimizer, adopt, measure
from plasticity.interventions.base import Intervention


def make_network(observations: int, actions: int) -> nn.Sequential:
    hidden = [nn.Linear(observations, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(84, actions))


def main(steps: int = 3000, method: str | Intervention = "redo") -> AdoptedOptimizer:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    env = gymnasium.make("CartPole-v1")
    q_network, target_network = make_network(4, 2), make_network(4, 2)
    target_network.load_state_dict(q_network.state_dict())
    adam = torch.optim.Adam(q_network.parameters(), lr=2.5e-4)
    optimizer = adopt(q_network, adam, [method], torch.zeros(2, 4), copies={"target": target_network})  # added
    replay: list[tuple[np.ndarray, int, float, bool, np.ndarray]] = []
    observation, _ = env.reset(seed=1)
    for step in range(steps):
        if random.random() < max(0.05, 1 - step / 1500):
            action = random.randrange(2)
        else:
            with torch.no_grad():
                action = int(q_network(torch.as_tensor(observation)[None]).argmax())
        following, reward, terminated, truncated, _ = env.step(action)
        replay.append((observation, action, float(reward), terminated, following))
        observation = env.reset()[0] if terminated or truncated else following
        if step >= 100:
            columns = zip(*random.sample(replay, 128), strict=True) if len(replay) >= 128 else zip(*replay, strict=True)
            states, actions, rewards, ends, nexts = (torch.as_tensor(np.array(each)) for each in columns)
            with torch.no_grad():
                targets = rewards.float() + 0.99 * target_network(nexts).amax(1) * ~ends
            loss = functional.mse_loss(q_network(states).gather(1, actions[:, None])[:, 0], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 1000 == 0:
                print(step, loss.item(), measure(q_network, states, ["dormant_fraction"]), optimizer.logs)
        if step % 500 == 0:
            target_network.load_state_dict(q_network.state_dict())
    return optimizer


if __name__ == "__main__":
    main()
