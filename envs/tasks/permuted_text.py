"""Permuted Shakespeare: the same sequences of text, with other numbers for the tokens in each task."""

import torch

from plasticity.envs.datasets.token_text import TokenText
from plasticity.envs.experience import Examples
from plasticity.envs.tasks.task_data import TaskData
from plasticity.settings.seeding import torch_generator


class PermutedText:
    """Next-token prediction under a permutation of the tokens' numbers, fresh for each task; a source of tasks.

    After Farias & Jozefiak 2025, "Self-Normalized Resets for Plasticity in Continual Learning". The text is cut into pieces of
    ``length`` + 1 tokens, one after another; an example is the first ``length`` of a piece and, as targets, the last ``length``.
    All tasks have the same examples but for the permutation, the first task as well.

    Deviation: the published code exchanges words, that is what is between spaces, among each other and cuts the result into the
    tokens of GPT-2, of which the text has 11,387; here the tokens themselves are exchanged.

    Args:
        text: the text.
        seed: the run's seed.
        examples: sequences in a task, the first of the text; None for all.
        length: tokens in a sequence.
        device: where tasks are wanted.

    Raises:
        ValueError: a setting outside its range, or a text that is too short.
    """

    classification = True
    has_validation = False
    input_dtype = torch.int64

    def __init__(
        self, text: TokenText, seed: int, examples: int | None = 256, length: int = 128, device: torch.device | str = "cpu"
    ) -> None:
        for name, value in (("examples_per_task", 1 if examples is None else examples), ("sequence_tokens", length)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
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
        """Returns the sequences, as many in each task."""
        return len(self._pieces)

    def task(self, number: int) -> TaskData:
        """Permutes the tokens' numbers."""
        permutation = torch.randperm(self.outputs, generator=torch_generator(self._seed, "task", number, "permutation"))
        pieces = permutation.to(self._device)[self._pieces]
        return TaskData(Examples(pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()))
