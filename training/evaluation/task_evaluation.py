"""Evaluation of a supervised learner on the sets of its task: training, validation and test."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch

from plasticity.agents.agent import learn_from
from plasticity.agents.supervised.agent import SupervisedLearner
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_stream import TaskStream
from plasticity.metrics.log_values import Measurements
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View
from plasticity.settings.fields import Settings, setting
from plasticity.settings.seeding import derive_seed, torch_generator
from plasticity.training.task_history import TaskHistory

MakeLearner = Callable[[int], SupervisedLearner]
Values = dict[str, float]

_SHOWN_BY_TASK: Final = ("online", "train", "validation", "test")


@dataclass
class TaskEvaluationSettings(Settings):
    """When a supervised learner is evaluated on its task, and how; an environment has ``evaluation`` instead."""

    section: ClassVar[str] = "task_evaluation"

    every_tasks: int = setting(
        1, "Evaluates at the end of every n-th task, whether tasks are announced or not; 0 for never.", low=0
    )
    every_epochs: int = setting(
        0, "Evaluates after every n-th epoch of each task as well, for its learning curve; 0 for never.", low=0
    )
    examples: int | None = setting(None, "Largest number of examples of each set, drawn for each task; None for all.", low=1)
    batch_size: int = setting(1000, "Examples at a time.", low=1)
    augmented: bool = setting(
        False, "Whether test images are augmented like those of training, as published code evaluates class-incremental CIFAR."
    )
    forward_transfer: bool = setting(
        False,
        "Whether the test set of the next task is tried, at the end of each that is evaluated, before anything of it is learned.",
    )
    fresh_every_tasks: int = setting(
        0,
        "Trains a fresh learner on the same task and data, from start to end, at the end of every n-th "
        "task, which is then evaluated as well; it takes as long as the task did, compiling included. 0 for"
        " never.",
        low=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forward_transfer and not (self.every_tasks or self.fresh_every_tasks):
            raise ValueError("task_evaluation.forward_transfer=true needs task_evaluation.every_tasks of at least 1")


class TaskEvaluationObserver:
    """Evaluates a learner on the sets of its task, at the ends of tasks and, by choice, of epochs; an observer.

    At the end of a task, after its last update and before anything of the next:

    - ``task/number``, from 0; it belongs to all values of that step.
    - ``task/online_accuracy``, ``task/online_loss``: means over all its examples of what was predicted before learning from each.
    - ``task/<set>_accuracy``, ``task/<set>_loss``: for the sets ``train``, ``validation`` and ``test`` that there are.
    - ``task/mean_online_accuracy``, ``task/mean_test_accuracy``: means over the tasks evaluated so far.
    - ``task/accuracy`` and ``task/loss``: curves of the online value and of those on the sets against the number of the task.

    At the end of an epoch, the same sets as ``epoch/<set>_accuracy``, with ``epoch/task`` and ``epoch/passed``, the epochs passed
    of the task; ``task/best_test_accuracy`` is the highest of these at the end of the task. With ``agent.restore_best`` the last
    point is that of the restored weights. In regression there are only losses.

    With a fresh learner, ``fresh/...`` is what it reaches, ``relative/<value>`` the difference (of accuracies: positive if the
    learner is better), and ``relative/online_transfer`` is (a - b) / (1 - b) of the online accuracies a, and b of the fresh one:
    forward transfer as Wolczyk et al. (2021), "Continual World", define it by areas under learning curves.

    With ``forward_transfer``, ``task/next_test_accuracy`` is the accuracy on the test set of the next task before it starts,
    before any intervention at the switch, ``fresh/next_test_accuracy`` that of fresh weights, ``task/forward_transfer`` the first
    minus the second (in regression, the fresh loss minus the learner's), and ``task/mean_forward_transfer`` the mean of these:
    the forward transfer of Lopez-Paz and Ranzato (2017), "Gradient episodic memory".

    Args:
        settings: When, and how.
        seed: The run's seed.
        agent: The learner; only read.
        stream: Its stream; only read.
        make_learner: Builds a learner like it with another seed, for comparison.
    """

    at_task_switch = False
    after_learning = True

    def __init__(
        self,
        settings: TaskEvaluationSettings,
        seed: int,
        agent: SupervisedLearner,
        stream: TaskStream,
        make_learner: MakeLearner,
    ) -> None:
        self.settings, self.seed = settings, seed
        self._agent, self._stream, self._make_learner = agent, stream, make_learner
        self._history = TaskHistory()

    def due(self, before: int, after: int) -> bool:
        """Tells whether a task or an epoch that is to be evaluated ends with this step."""
        return self._task_due or self._epoch_due

    @property
    def _task_due(self) -> bool:
        return self._is_turn(self.settings.every_tasks) or self._fresh_due

    @property
    def _fresh_due(self) -> bool:
        return self._is_turn(self.settings.fresh_every_tasks)

    @property
    def _epoch_due(self) -> bool:
        return self._is_epoch(self._stream)

    def _is_turn(self, every: int) -> bool:
        return every > 0 and self._stream.ends_task and (self._stream.true_task + 1) % every == 0

    def _is_epoch(self, stream: TaskStream) -> bool:
        every = self.settings.every_epochs
        return every > 0 and stream.ends_epoch and (stream.epoch + 1) % every == 0

    def measure(self, view: View) -> Measurements:
        """Returns what the class describes."""
        task = self._stream.true_task
        scores = self._scores(self._agent, task)
        logs: Measurements = {}
        if self._epoch_due:
            logs |= {"epoch/task": float(task), "epoch/passed": self._stream.epoch + 1.0}
            logs |= {f"epoch/{name}": value for name, value in scores.items()}
            if "test_accuracy" in scores:
                self._history.keep_if_best(task, scores["test_accuracy"])
        if not self._task_due:
            return logs
        ended = scores | self._online(self._agent)
        if (best := self._history.best(task)) is not None:
            ended["best_test_accuracy"] = best
        if self._fresh_due:
            logs |= self._compared(ended, self._fresh(task))
        if self.settings.forward_transfer:
            logs |= self._next_task(task + 1, ended)
        logs |= {f"task/{name}": value for name, value in ended.items()}
        return logs | {"task/number": float(task)} | self._over_tasks(task, ended)

    def state_dict(self) -> dict[str, Any]:
        """Returns what was found by task."""
        return self._history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self._history.load_state_dict(state)

    def _over_tasks(self, task: int, ended: Values) -> Measurements:
        """Remembers a task's values, and returns their means and curves."""
        kinds = ("accuracy", "loss") if self._agent.classification else ("loss",)
        names = [*(f"{name}_{kind}" for name in _SHOWN_BY_TASK for kind in kinds), "forward_transfer"]
        self._history.add(task, {name: ended[name] for name in names if name in ended})
        averaged = (f"online_{kinds[0]}", f"test_{kinds[0]}", "forward_transfer")
        logs: Measurements = {f"task/mean_{name}": self._history.mean(name) for name in averaged if name in ended}
        return logs | {f"task/{kind}": self._history.curves(kind) for kind in kinds}

    def _scores(self, agent: SupervisedLearner, task: int) -> Values:
        values: Values = {}
        for name, part in self._stream.sets(task).items():
            if len(part.inputs):
                values |= self._score(agent, task, name, part)
        return values

    def _score(self, agent: SupervisedLearner, task: int, name: str, part: Examples, called: str = "") -> Values:
        """Returns ``<called>_loss`` and ``<called>_accuracy`` on the set ``name``, which also replaces an empty ``called``."""
        limit = self.settings.examples
        if limit is not None and limit < len(part.inputs):
            order = torch.randperm(len(part.inputs), generator=torch_generator(self.seed, "evaluated", name, task))
            rows = order[:limit].to(part.inputs.device)
            part = Examples(part.inputs[rows], part.targets[rows])
        generator = torch_generator(self.seed, "evaluation", name, task) if self.settings.augmented and name == "test" else None
        with agent.learner.network.evaluating():
            batches = self._stream.in_batches(part, self.settings.batch_size, generator)
            loss, accuracy = agent.score(batches, self._stream.active(task))
        values = {f"{called or name}_loss": float(loss)}
        return values if accuracy is None else values | {f"{called or name}_accuracy": float(accuracy)}

    def _next_task(self, task: int, ended: Values) -> Measurements:
        """Tries the test set of a task of which nothing is learned yet, with the learner and with fresh weights."""
        part = self._stream.sets(task).get("test")
        kind = "accuracy" if self._agent.classification else "loss"
        if part is None:
            ended["forward_transfer"] = Undefined("the next task has no test set")
            return {}
        fresh = self._score(self._make_learner(self._fresh_seed(task)), task, "test", part, "next_test")
        ended |= self._score(self._agent, task, "test", part, "next_test")
        gain = ended[f"next_test_{kind}"] - fresh[f"next_test_{kind}"]
        ended["forward_transfer"] = gain if kind == "accuracy" else -gain
        return {f"fresh/{name}": value for name, value in fresh.items()}

    def _fresh(self, task: int) -> Values:
        """Trains a fresh learner on the whole task and returns its values."""
        fresh = self._make_learner(self._fresh_seed(task))
        stream, history = self._stream.beginning(task), TaskHistory()
        test = stream.sets(task).get("test") if self._agent.classification else None
        while not stream.ends_task:
            with torch.enable_grad():
                learn_from(fresh, stream.advance(), stream.step)
            if test is not None and self._is_epoch(stream):
                history.keep_if_best(task, self._score(fresh, task, "test", test)["test_accuracy"])
        best = history.best(task)
        values = self._scores(fresh, task) | self._online(fresh)
        return values if best is None else values | {"best_test_accuracy": best}

    def _compared(self, ended: Values, fresh: Values) -> Measurements:
        """Returns what a fresh learner reached, and how much more the learner reached than it."""
        logs: Measurements = {f"fresh/{name}": value for name, value in fresh.items()}
        gains = {name: ended[name] - value for name, value in fresh.items() if name in ended}
        logs |= {f"relative/{name}": value for name, value in gains.items()}
        if self._agent.classification:
            left = 1 - fresh["online_accuracy"]
            undefined = Undefined("the fresh network makes no mistake")
            logs["relative/online_transfer"] = gains["online_accuracy"] / left if left else undefined
        return logs

    def _fresh_seed(self, task: int) -> int:
        return derive_seed(self.seed, "fresh learner", task)

    @staticmethod
    def _online(agent: SupervisedLearner) -> Values:
        return {f"online_{name}": value for name, value in agent.online.means().items()}
