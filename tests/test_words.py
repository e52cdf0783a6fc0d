"""Words that readers stumble over are not in the prose of the project."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("adopt", "agents", "benchmarks", "configs", "docs", "envs", "examples", "interventions", "metrics", "networks")
ROOMS += ("optimizers", "settings", "tests", "training", "updates")
FILES = sorted(
    path
    for room in ROOMS
    for path in (ROOT / room).rglob("*")
    if path.suffix in (".py", ".md", ".yaml") and "results" not in path.relative_to(ROOT).parts and path != Path(__file__)
)
# Word or words: what to write instead.
ODD = {
    r"\banew\b": "again",
    r"\bbeside\b": "alongside, next to, in addition to, with",
    r"\bNone else\.": "no other ...",
    r"\bof all else\b": "of everything else",
    r"\bgone on with\b": "continued",
    r"\blets? go of\b": "releases",
    r"\btakes? in (a|an|the)\b": "receives, reads",
    r"\bhands? out\b": "returns",
    r"\bat hand\b": "available",
    r"\bwhosoever\b|\bwhoever\b": "the caller, any ... that",
    r"\bbrings? (little|nothing)\b": "does not help",
    r"\bsettle\b|\bripen\b": "the field's word",
    r"\bbit by bit identical\b": "bit-identical",
}


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) > 500


@pytest.mark.parametrize("word", ODD)
def test_the_word_is_not_used(word: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(word, line, re.IGNORECASE)
    ]
    assert not found, f"{word}: write {ODD[word]}:\n" + "\n".join(found[:20])
