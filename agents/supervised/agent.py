"""The supervised learner: one minibatch, one update."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from plasticity.agents.losses.targets import masked_cross_entropy, regression_error
from plasticity.agents.parts import PartBuilder
from plasticity.agents.registry import agent
from plasticity.agents.supervised.best_weights import BestWeights
from plasticity.agents.supervised.online_means import OnlineMeans
from plasticity.envs.experience import Examples, Experience, Place
from plasticity.envs.problem import Problem
from plasticity.interventions.base import Logs
from plasticity.networks.objective import Objective
from plasticity.networks.spec import HeadSpec
from plasticity.settings.fields import Settings, setting
from plasticity.updates.recent_inputs import RecentInputs
from plasticity.updates.updater import Updater


@dataclass
class SupervisedSettings(Settings):
    """Continual supervised learner: one update on every minibatch, classification or regression as the stream requires."""

    section: ClassVar[str] = "agent"

    label_smoothing: float = setting(0.0, "Weight of the uniform distribution in the classification target.", low=0, high=1)
    recent_examples: int = setting(2000, "Latest inputs kept for measurements.", low=1)
    restore_best: bool = setting(
        False, "Whether the weights return, at the end of a task, to those of the epoch with the best validation."
    )
    evaluation_batch_size: int = setting(1000, "Examples per forward pass where nothing is learned.", low=1)


class LabelledBatch(NamedTuple):
    """What one update learns from: inputs (B, ...), and labels (B,), of sequences (B, T), or regression targets (B, K)."""

    inputs: Tensor
    targets: Tensor


class MaskedBatch(NamedTuple):
    """A labelled batch of which only some classes count: ``active`` (B, K) bool, the same in all rows of a minibatch."""

    inputs: Tensor
    targets: Tensor
    active: Tensor


class Score(NamedTuple):
    """How well a network does on a set of examples.

    Attributes:
        loss: Mean loss.
        accuracy: Share of right labels, of sequences each token's; None for regression.
    """

    loss: Tensor
    accuracy: Tensor | None


def by_token(outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns logits (B * T, K) and labels (B * T,) of sequences, with each token as an example; others as they are.

    Args:
        outputs: Logits (B, K), or (B, T, K) of sequences.
        labels: (B,), or (B, T).

    Raises:
        ValueError: If the labels are those of sequences, and the logits are not.
    """
    if labels.ndim == 1:
        return outputs, labels
    if outputs.shape[:-1] != labels.shape:
        raise ValueError(
            f"the stream has a label for every token, {tuple(labels.shape)}, and the network has outputs "
            f"{tuple(outputs.shape)}: choose network=gpt"
        )
    return outputs.flatten(0, -2), labels.flatten()


class SupervisedLearner:
    """Learns from a data stream; one part, ``learner``.

    Where every token of a sequence has a label, loss and accuracy are means over all tokens.

    Args:
        settings: The learner's settings.
        outputs: Classes, or regression targets.
        classification: Whether targets are labels.
        build_part: Builds the part.
        masked: Whether the stream states which classes count.

    Attributes:
        online: Loss, and accuracy in classification, of each example of the task so far before it was learned from; they start
            again with each task, announced or not.
    """

    def __init__(
        self,
        settings: SupervisedSettings,
        outputs: int,
        classification: bool,
        build_part: PartBuilder,
        masked: bool = False,
    ) -> None:
        self.settings, self.classification, self.masked = settings, classification, masked
        head = HeadSpec("classification" if classification else "regression", outputs)
        self.learner = build_part("learner", head)
        self.parts: dict[str, Updater] = {"learner": self.learner}
        self.online = OnlineMeans()
        self._objective: Objective[Any] = self._masked_loss if masked else self._loss
        if masked:
            self.learner.examples.declare(self._masked_loss, MaskedBatch)
        else:
            self.learner.examples.declare(self._loss, LabelledBatch)
        self._recent = RecentInputs(settings.recent_examples)
        self._best = BestWeights()
        self._task_over = False
        self._online = ("accuracy", "loss") if classification else ("loss",)

    def act(self, observations: Tensor) -> Tensor:
        """Returns predictions (N,) of labels, (N, T) of sequences, or (N, K); a data stream does not use them."""
        outputs = self.learner.predict(observations.to(self.learner.device))
        return outputs.argmax(-1) if self.classification else outputs

    def learn(self, experience: Experience) -> Logs:
        """Makes one update; accuracy and loss are those before it, from the same forward.

        Raises:
            TypeError: If the experience does not come from a data stream.
        """
        if not isinstance(experience.batch, Examples):
            raise TypeError("agent=supervised learns from a data stream, not from an environment; choose agent=dqn")
        place = experience.place
        batch = self.batch_of(experience.batch, None if place is None else place.active)
        logs = self.learner.update(self._objective, batch)
        logs["online/loss"] = logs["train/loss"]
        self._recent.add(batch.inputs)
        self._count(logs, len(batch.inputs))
        if place is not None and place.ends_epoch:
            logs |= self._end_epoch(place)
        return logs

    def batch_of(self, examples: Examples, active: Tensor | None) -> LabelledBatch | MaskedBatch:
        """Returns the batch of an update on examples, on the learner's device.

        Args:
            examples: B of them.
            active: (K,) bool, the classes that count; read if the stream states them.
        """
        device = self.learner.device
        inputs, targets = examples.inputs.to(device), examples.targets.to(device)
        if not self.masked:
            return LabelledBatch(inputs, targets)
        assert active is not None
        return MaskedBatch(inputs, targets, active.to(device).expand(len(inputs), -1))

    def switch_task(self, task: int) -> Logs:
        """Informs the interventions of the new task."""
        return self.learner.task_switch(task)

    def sample_inputs(self, part: str, count: int, generator: torch.Generator) -> Tensor | None:
        """Returns the latest inputs, at most ``count``, or None before the first."""
        return self._recent.latest(count)

    @torch.no_grad()
    def score(self, batches: Iterable[Examples], active: Tensor | None = None) -> Score:
        """Returns how well the network that is evaluated does on examples, in evaluation mode and without learning.

        Args:
            batches: The examples in minibatches.
            active: (K,) bool, the classes that count; None for all.
        """
        losses, right, count = [], [], 0
        for inputs, targets in batches:
            outputs = self.learner.predict(inputs.to(self.learner.device))
            targets = targets.to(outputs.device)
            if self.classification:
                outputs, targets = by_token(outputs, targets)
            count += len(targets)
            if not self.classification:
                losses.append(regression_error(outputs, targets, huber=False).mean(1).sum())
                continue
            if active is not None:
                outputs = outputs.masked_fill(~active.to(outputs.device), -torch.inf)
            losses.append(functional.cross_entropy(outputs, targets, reduction="sum"))
            right.append((outputs.argmax(1) == targets).sum())
        loss = torch.stack(losses).sum() / count
        return Score(loss, torch.stack(right).sum() / count if right else None)

    def state_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """Returns everything that the next call depends on; it is small, and no files are needed."""
        return {
            "learner": self.learner.state_dict(),
            "recent": self._recent.state_dict(),
            "online": self.online.state_dict(),
            "best": self._best.state_dict(),
            "task_over": self._task_over,
        }

    def load_state_dict(self, state: Mapping[str, Any], folder: Path | None = None) -> None:
        """Restores what ``state_dict`` returned."""
        self.learner.load_state_dict(state["learner"])
        self._recent.load_state_dict(state["recent"], self.learner.device)
        self.online.load_state_dict(state["online"], self.learner.device)
        self._best.load_state_dict(state["best"], self.learner.device)
        self._task_over = state["task_over"]

    def _count(self, logs: Logs, examples: int) -> None:
        """Remembers how well a minibatch of the task was predicted."""
        if self._task_over:
            self.online.clear()
            self._task_over = False
        self.online.add({name: logs[f"online/{name}"] for name in self._online}, examples)

    def _end_epoch(self, place: Place) -> Logs:
        """Compares with the best epoch so far, and ends the task if it is over."""
        logs: Logs = {}
        self._task_over = place.ends_task
        if self.settings.restore_best:
            if place.validation is None:
                raise ValueError("agent.restore_best=true needs a stream with a validation set")
            size = self.settings.evaluation_batch_size
            batches = zip(place.validation.inputs.split(size), place.validation.targets.split(size), strict=True)
            score = self.score((Examples(*batch) for batch in batches), place.active)
            value = float(-score.loss if score.accuracy is None else score.accuracy)
            self._best.keep_if_best(value, self.learner.network)
            logs["train/validation_accuracy" if self.classification else "train/validation_loss"] = abs(value)
            if place.ends_task:
                self._best.restore(self.learner.network)
        return logs

    def _loss(self, outputs: Tensor, batch: LabelledBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.classification:
            return regression_error(outputs, batch.targets, huber=False).mean(), {}
        outputs, targets = by_token(outputs, batch.targets)
        accuracy = (outputs.argmax(1) == targets).float().mean()
        loss = functional.cross_entropy(outputs, targets, label_smoothing=self.settings.label_smoothing)
        return loss, {"online/accuracy": accuracy}

    def _masked_loss(self, outputs: Tensor, batch: MaskedBatch) -> tuple[Tensor, dict[str, Tensor]]:
        right = outputs.masked_fill(~batch.active, -torch.inf).argmax(1) == batch.targets
        loss = masked_cross_entropy(outputs, batch.targets, batch.active, self.settings.label_smoothing)
        return loss, {"online/accuracy": right.float().mean()}


@agent("supervised", SupervisedSettings, learns_from="examples", actions="both")
def _build(settings: SupervisedSettings, problem: Problem, build_part: PartBuilder) -> SupervisedLearner:
    if settings.restore_best and not problem.validates:
        raise ValueError("agent.restore_best=true needs a validation set: give the env one, or choose false")
    return SupervisedLearner(settings, problem.outputs, problem.discrete, build_part, problem.masks)
