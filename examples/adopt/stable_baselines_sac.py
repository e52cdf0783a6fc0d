"""SAC of Stable-Baselines3 with ReDo and with metrics of plasticity: a callback adopts the optimizers of actor and critic.

Run with stable-baselines3 2.9.2, gymnasium 1.4.0, torch 2.13.0. ``model.save`` saves the state of the methods with that of the
optimizers. A loaded model has plain optimizers: adopt them again, then ``set_parameters`` gives the methods their state back.
Names of layers are too long for the table on stdout.
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from plasticity.adopt import AdoptedOptimizer, adopt, measure
from plasticity.interventions.methods.redo import ReDo


def gaussian(actor: Any, observations: torch.Tensor) -> Any:  # its own forward draws actions, which cannot be traced
    return actor.get_action_dist_params(observations)[:2]


class Plasticity(BaseCallback):  # type: ignore[misc, unused-ignore]
    """Adopts actor and critic, and logs metrics."""

    def _init_callback(self) -> None:
        model, methods = self.model, [ReDo(every_updates=50)]
        if isinstance(model.actor.optimizer, AdoptedOptimizer):  # learn is called again
            return
        spaces = model.observation_space, model.action_space
        example = tuple(torch.zeros(2, *each.shape, device=model.device) for each in spaces)
        model.actor.optimizer = adopt(model.actor, model.actor.optimizer, methods, example[0], forward=gaussian, part="actor")
        model.critic.optimizer = adopt(model.critic, model.critic.optimizer, methods, example, part="critic")

    def _on_step(self) -> bool:
        if self.n_calls % 100 == 0:
            model, buffer = self.model, self.model.replay_buffer
            latest = [each[max(buffer.pos - 250, 0) : buffer.pos, 0] for each in (buffer.observations, buffer.actions)]
            inputs = tuple(torch.as_tensor(each, device=model.device) for each in latest)
            found = measure(model.actor, inputs[0], ["dormant_fraction"], forward=gaussian)
            found |= {f"critic_{name}": value for name, value in measure(model.critic, inputs, ["dormant_fraction"]).items()}
            for name, value in found.items():
                self.logger.record(f"plasticity/{name}", value, exclude="stdout" if "/" in name else None)
        return True


def main(steps: int = 300) -> tuple[Any, Any]:
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [64, 64]}, seed=0, verbose=1, device="cpu")
    model.learn(steps, Plasticity(), log_interval=1)
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/model")
        loaded = SAC.load(f"{folder}/model", env=model.get_env(), device="cpu")
        Plasticity().init_callback(loaded)
        loaded.set_parameters(f"{folder}/model")
    return model, loaded.learn(steps, callback=Plasticity(), log_interval=1)


if __name__ == "__main__":
    main()
