from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from plasticity.envs.datasets import token_text
from plasticity.envs.datasets.dataset_files import DatasetError, Source
from plasticity.envs.datasets.token_text import FILE, TokenText, load_text, tokenize
from plasticity.envs.factory import build_stream
from plasticity.envs.tasks.permuted_text import PermutedText, ShakespeareSettings
from plasticity.envs.tasks.schedule import Schedule
from plasticity.envs.tasks.task_stream import TaskStream

TEXT = "To be, or not to be!\nThat is. "


def counted(tokens: int, kinds: int) -> TokenText:
    """A text 0 1 2 ... kinds - 1 0 1 ..."""
    return TokenText(torch.arange(tokens) % kinds, tuple(f"w{number:03d}" for number in range(kinds)))


def offline(_: Path) -> Mapping[str, bytes]:
    raise DatasetError("no download: offline")


# Tokens


def test_words_and_punctuation_in_lower_case() -> None:
    text = tokenize(TEXT, "word")
    assert text.vocabulary == ("!", ",", ".", "be", "is", "not", "or", "that", "to")
    assert " ".join(text.vocabulary[number] for number in text.tokens) == "to be , or not to be ! that is ."
    assert text.tokens.dtype == torch.int64


def test_characters_are_all_kept() -> None:
    text = tokenize(TEXT, "character")
    assert "".join(text.vocabulary[number] for number in text.tokens) == TEXT
    assert len(text.vocabulary) == len(set(TEXT))


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="unit must be one of word, character, got 'syllable'"):
        tokenize(TEXT, "syllable")


# Tasks


def test_targets_are_the_inputs_shifted_by_one() -> None:
    text = counted(23, 7)
    source = PermutedText(text, ShakespeareSettings(examples_per_task=None, sequence_tokens=4), 0)
    assert (source.input_shape, source.input_dtype, source.outputs) == ((4,), torch.int64, 7)
    train = source.task(0).train
    assert train.inputs.shape == train.targets.shape == (4, 4)  # 4 pieces of 5 tokens, and 3 left over
    assert source.examples_in(0) == 4
    assert torch.equal(train.inputs[:, 1:], train.targets[:, :-1])
    inverse = {int(new): int(old) for old, new in zip(text.tokens[:5], [*train.inputs[0], train.targets[0, -1]], strict=True)}
    inverse |= {int(new): int(old) for old, new in zip(text.tokens[5:10], [*train.inputs[1], train.targets[1, -1]], strict=True)}
    assert len(inverse) == 7  # one to one
    for row in range(4):
        assert [inverse[int(token)] for token in train.inputs[row]] == [(5 * row + place) % 7 for place in range(4)]
        assert inverse[int(train.targets[row, -1])] == (5 * row + 4) % 7


def test_each_task_has_a_permutation_of_its_own() -> None:
    source, again = (
        PermutedText(counted(60, 50), ShakespeareSettings(examples_per_task=5, sequence_tokens=11), 3) for _ in range(2)
    )
    other = PermutedText(counted(60, 50), ShakespeareSettings(examples_per_task=5, sequence_tokens=11), 4)
    tasks = [source.task(number).train for number in range(3)]
    for number in (2, 0, 1):
        assert torch.equal(again.task(number).train.inputs, tasks[number].inputs)
        assert not torch.equal(other.task(number).train.inputs, tasks[number].inputs)
    assert not torch.equal(tasks[0].inputs, tasks[1].inputs)
    map_ = dict(zip(tasks[0].inputs.flatten().tolist(), tasks[1].inputs.flatten().tolist(), strict=True))
    assert [map_[int(token)] for token in tasks[0].inputs.flatten()] == tasks[1].inputs.flatten().tolist()
    assert len(set(map_.values())) == len(map_)
    whole = PermutedText(counted(50, 50), ShakespeareSettings(examples_per_task=1, sequence_tokens=49), 0).task(0).train
    assert sorted([*whole.inputs[0].tolist(), int(whole.targets[0, -1])]) == list(range(50))


def test_a_resumed_stream_goes_on_in_the_middle_of_an_epoch() -> None:
    def stream() -> TaskStream:
        return TaskStream(
            PermutedText(counted(200, 30), ShakespeareSettings(examples_per_task=7, sequence_tokens=6), 1), Schedule(2, 3), seed=1
        )

    whole, resumed = stream(), stream()
    experiences = [whole.advance() for _ in range(17)]  # 3 minibatches an epoch, 6 a task
    assert [experience.task for experience in experiences] == [0] * 6 + [1] * 6 + [2] * 5
    other = stream()
    for _ in range(8):
        other.advance()
    resumed.load_state_dict(other.state_dict())
    for expected in experiences[8:]:
        batch = resumed.advance().batch
        assert torch.equal(batch[0], expected.batch[0])
        assert torch.equal(batch[1], expected.batch[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples_per_task": 0}, r"env\.examples_per_task=0 must be at least 1"),
        ({"sequence_tokens": 0}, r"env\.sequence_tokens=0 must be at least 1"),
        (
            {"examples_per_task": 3, "sequence_tokens": 9},
            "examples_per_task=3 .* need 30 tokens, and the text has 29, enough for 2",
        ),
        ({"examples_per_task": None, "sequence_tokens": 40}, "need 41 tokens, and the text has 29, enough for 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PermutedText(counted(29, 5), ShakespeareSettings(**settings), 0)


# Files


def test_a_text_of_the_users_own_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.txt").write_text(TEXT)
    settings = ShakespeareSettings(data_folder=str(tmp_path), sequence_tokens=4, examples_per_task=2)
    stream, problem = build_stream(settings, 0, torch.device("cpu"))
    assert (problem.kind, problem.outputs, problem.discrete, problem.announces_tasks) == ("examples", 9, True, True)
    assert (stream.input_shape, stream.input_dtype) == ((4,), torch.int64)
    assert f"note: {tmp_path / 'input.txt'} is not Tiny Shakespeare (30 bytes)" in capsys.readouterr().err


def test_tiny_shakespeare_itself_is_not_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_text, "FILE", FILE.__class__(FILE.name, "900150983cd24fb0d6963f7d28e17f72"))  # md5 of abc
    (tmp_path / "input.txt").write_text("abc")
    assert load_text(tmp_path) == load_text(tmp_path / FILE.name) == "abc"
    assert capsys.readouterr().err == ""


def test_the_text_is_found_among_the_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_text, "FILE", FILE.__class__(FILE.name, "900150983cd24fb0d6963f7d28e17f72"))
    monkeypatch.setattr(token_text, "SOURCES", (Source("a place", offline),))
    monkeypatch.setenv("PLASTICITY_DATA", str(tmp_path))
    folder = tmp_path / "tiny_shakespeare"
    folder.mkdir()
    (folder / "input.txt").write_text("abc")
    assert load_text(None) == load_text(tmp_path) == "abc"
    (folder / "input.txt").write_text("abd")
    with pytest.raises(DatasetError, match="is damaged: expected md5 9001"):
        load_text(None)


def test_a_missing_text_names_every_way_to_provide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_text, "SOURCES", (Source(token_text.SOURCES[0].label, offline),))
    with pytest.raises(DatasetError) as caught:
        load_text(tmp_path)
    message = str(caught.value)
    for way in (token_text.ADDRESS, f"put input.txt (plain or .gz) in {tmp_path / 'tiny_shakespeare'}", "PLASTICITY_DATA"):
        assert way in message
    assert message.endswith("or let env.data_folder name a folder with input.txt, this text or another")
    assert "\n" not in message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(b"abc\xff\xfe")
    with pytest.raises(DatasetError, match=r"input.txt: expected text in UTF-8, found: .*0xff"):
        load_text(tmp_path)
