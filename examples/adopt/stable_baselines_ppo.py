"""PPO of Stable-Baselines3 with ReDo and with metrics of plasticity: a callback adopts the policy's optimizer.

Run with stable-baselines3 2.9.2, gymnasium 1.4.0, torch 2.13.0. ``model.save`` saves the state of the methods with that of the
optimizer. A loaded model has a plain optimizer: adopt it again, then ``set_parameters`` gives the methods their state back.
Names of layers are too long for the table on stdout, which gets the values of all units together.
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from plasticity.adopt import AdoptedOptimizer, adopt, measure
from plasticity.interventions.methods.redo import ReDo


def networks(policy: Any, observations: torch.Tensor) -> Any:
    """Calls what is in ``evaluate_actions``, which makes a distribution too and cannot be traced."""
    actor, critic = policy.mlp_extractor(policy.extract_features(observations))
    return policy.action_net(actor), policy.value_net(critic)


class Plasticity(BaseCallback):  # type: ignore[misc, unused-ignore]
    """Adopts the policy, and logs metrics behind every rollout."""

    def _init_callback(self) -> None:
        policy = self.model.policy
        if isinstance(policy.optimizer, AdoptedOptimizer):  # learn is called again
            return
        example = torch.zeros(2, *self.model.observation_space.shape, device=self.model.device)
        policy.optimizer = adopt(policy, policy.optimizer, [ReDo(every_updates=100)], example, forward=networks)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        seen = self.model.rollout_buffer.observations.reshape(-1, *self.model.observation_space.shape)
        inputs = torch.as_tensor(seen, device=self.model.device)
        for name, value in measure(self.model.policy, inputs, ["dormant_fraction", "stable_rank"], forward=networks).items():
            self.logger.record(f"plasticity/{name}", value, exclude="stdout" if "/" in name else None)


def main(steps: int = 1000) -> tuple[Any, Any]:
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=250, batch_size=50, seed=0, verbose=1, device="cpu")
    model.learn(steps, callback=Plasticity())
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        loaded = PPO.load(f"{folder}/model", env=model.get_env(), device="cpu")
        Plasticity().init_callback(loaded)
        loaded.set_parameters(f"{folder}/model")
    return model, loaded.learn(steps, callback=Plasticity())


if __name__ == "__main__":
    main()
