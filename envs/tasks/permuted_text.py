"""Permuted Shakespeare: the same sequences of text, with other numbers for the tokens in each task."""

from dataclasses import dataclass
from pathlib import Path

import torch

from plasticity.envs.datasets.token_text import UNITS, TokenText, load_text, tokenize
from plasticity.envs.experience import Examples
from plasticity.envs.registry import stream
from plasticity.envs.tasks.task_data import TaskData
from plasticity.envs.tasks.task_settings import TaskSettings
from plasticity.settings.fields import setting
from plasticity.settings.seeding import torch_generator


@stream("shakespeare")
@dataclass
class ShakespeareSettings(TaskSettings):
    """Permuted Shakespeare: next-token prediction, with a fresh permutation of the tokens' numbers in each task."""

    epochs_per_task: int = 100
    batch_size: int = 8
    data_folder: str | None = setting(
        None,
        "A text, a folder with a text ``input.txt``, or that of the data sets; None for ``$PLASTICITY_DATA`` "
        "or ``~/.cache/plasticity``.",
    )
    unit: str = setting("word", "What a token is, ``word`` or ``character``.", choices=UNITS)
    sequence_tokens: int = setting(128, "Tokens in a sequence.", low=1)
    examples_per_task: int | None = setting(256, "Sequences in a task, the first of the text; None for all.", low=1)

    def source(self, seed: int, device: torch.device) -> "PermutedText":
        """Makes the tasks."""
        text = load_text(None if self.data_folder is None else Path(self.data_folder))
        return PermutedText(tokenize(text, self.unit), self, seed, device)


class PermutedText:
    """Next-token prediction under a permutation of the tokens' numbers, fresh for each task; a source of tasks.

    After Farias & Jozefiak 2025, "Self-Normalized Resets for Plasticity in Continual Learning". The text is cut into pieces of
    L + 1 tokens, one after another, with L = ``sequence_tokens``; an example is the first L of a piece and, as targets, the
    last L.
    All tasks, also the first, have the same examples except for the permutation.

    Deviation: the published code exchanges words (the text between spaces) with each other and cuts the result into the
    tokens of GPT-2, of which the text has 11,387; here the tokens themselves are exchanged.

    Args:
        text: The text in tokens.
        settings: The settings.
        seed: The run's seed.
        device: Where tasks are wanted.

    Raises:
        ValueError: The text is too short.
    """

    classification = True
    has_validation = False
    input_dtype = torch.int64

    def __init__(self, text: TokenText, settings: ShakespeareSettings, seed: int, device: torch.device | str = "cpu") -> None:
        examples, length = settings.examples_per_task, settings.sequence_tokens
        there = len(text.tokens) // (length + 1)
        wanted = max(there, 1) if examples is None else examples
        if wanted > there:
            raise ValueError(
                f"examples_per_task={examples} sequences of sequence_tokens={length} and one more need {wanted * (length + 1)} "
                f"tokens, and the text has {len(text.tokens)}, enough for {there}"
            )
        self.input_shape: tuple[int, ...] = (length,)
        self.outputs = len(text.vocabulary)
        self._seed, self._device = seed, device
        self._pieces = text.tokens[: wanted * (length + 1)].view(wanted, length + 1).to(device)

    def examples_in(self, number: int) -> int:
        """Returns the number of sequences, the same in each task."""
        return len(self._pieces)

    def task(self, number: int) -> TaskData:
        """Permutes the tokens' numbers."""
        permutation = torch.randperm(self.outputs, generator=torch_generator(self._seed, "task", number, "permutation"))
        pieces = permutation.to(self._device)[self._pieces]
        return TaskData(Examples(pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()))
