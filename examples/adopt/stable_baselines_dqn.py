"""DQN of Stable-Baselines3 with ReDo and with metrics of plasticity: a callback adopts the optimizer of ``q_net``.

Run with stable-baselines3 2.9.2, gymnasium 1.4.0, torch 2.13.0. ``model.save`` saves the state of the methods with that of the
optimizer. A loaded model has a plain optimizer: adopt it again, then ``set_parameters`` gives the methods their state back.
Names of layers are too long for the table on stdout, which gets the values of all units together.
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from plasticity.adopt import AdoptedOptimizer, adopt, measure
from plasticity.interventions.methods.redo import ReDo


class Plasticity(BaseCallback):  # type: ignore[misc, unused-ignore]
    """Adopts the Q-network, and logs metrics every 250 steps."""

    def _init_callback(self) -> None:
        policy, copies = self.model.policy, {"target": self.model.q_net_target}
        if isinstance(policy.optimizer, AdoptedOptimizer):  # learn is called again
            return
        example = torch.zeros(2, *self.model.observation_space.shape, device=self.model.device)
        policy.optimizer = adopt(policy.q_net, policy.optimizer, [ReDo(every_updates=100)], example, copies=copies)

    def _on_step(self) -> bool:
        buffer = self.model.replay_buffer
        if self.n_calls % 250 == 0:
            latest = buffer.observations[max(buffer.pos - 250, 0) : buffer.pos, 0]  # nothing is drawn from the run's generators
            inputs = torch.as_tensor(latest, device=self.model.device)
            for name, value in measure(self.model.q_net, inputs, ["dormant_fraction", "stable_rank"]).items():
                self.logger.record(f"plasticity/{name}", value, exclude="stdout" if "/" in name else None)
        return True


def main(steps: int = 1000) -> tuple[Any, Any]:
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, verbose=1, device="cpu")
    model.learn(steps, callback=Plasticity(), log_interval=20)
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        loaded = DQN.load(f"{folder}/model", env=model.get_env(), device="cpu")
        Plasticity().init_callback(loaded)
        loaded.set_parameters(f"{folder}/model")
    return model, loaded.learn(steps, callback=Plasticity(), log_interval=20)


if __name__ == "__main__":
    main()
