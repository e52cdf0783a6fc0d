"""The pages of the site: every command is one that the program takes, and the short ones are run."""

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from reference_pages.pages import BLOCKS, MARK, filled
from reference_pages.studies import PAPERS, paper_of, studies
from registries import forget_entries, forget_modules

import run_agent
from plasticity.settings.registry import Registry
from plasticity.training.config.choices import REGISTERED
from plasticity.training.config.parsing import parse

ROOT = Path(run_agent.__file__).parent
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"(?:<!-- needs: (?P<needs>[a-z]+) -->\n)?```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)```\n", re.DOTALL
)
INDENTED = re.compile(r"(?:\A|\n\n)((?: {4}.*\n)+)")
NEEDS = {
    "browser",  # to look at what it serves
    "data",  # files that must be fetched, or that cannot be
    "install",  # changes the environment
    "time",  # more than two or three minutes
}
NO_COMMANDS = {"python", "yaml", "toml", "text"}  # kinds of other blocks
PROGRAM = ["python", "run_agent.py"]
OTHERS = ("pip", "pytest", "tensorboard")


class Block(NamedTuple):
    """A block of commands: lines that were continued are joined."""

    needs: str
    commands: list[list[str]]
    lines: list[str]


class Page(NamedTuple):
    """Blocks of commands, and the files that the page shows, by name."""

    blocks: list[Block]
    files: dict[str, str]


WRITTEN = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
WITH_COMMANDS = [place for place, text in WRITTEN.items() if re.search(r"```bash|python run_agent\.py|generated: studies", text)]

WITH_SHORT_COMMANDS = [
    place
    for place, text in WRITTEN.items()
    if any(fence["kind"] == "bash" and not fence["needs"] for fence in FENCE.finditer(text))
]


@cache
def text_of(place: str) -> str:
    """A page as the site shows it."""
    text: str = filled(WRITTEN[place])
    return text


def read(place: str) -> Page:
    blocks, files = [], {}
    for fence in FENCE.finditer(text_of(place)):
        if fence["kind"] == "bash":
            blocks.append(block_of(fence["body"], fence["needs"] or ""))
        elif fence["title"]:
            snippet = re.fullmatch(r'--8<-- "(.+)"\n', fence["body"])
            files[fence["title"]] = (ROOT / snippet[1]).read_text(encoding="utf-8") if snippet else fence["body"]
    # Of pages that are Markdown for other readers too, which mark code by indentation; their commands run for long.
    blocks += [
        block_of(body, "time") for body in INDENTED.findall(text_of(place)) if body.strip().startswith("python run_agent.py")
    ]
    return Page(blocks, files)


def block_of(body: str, needs: str) -> Block:
    joined = [line.strip() for line in re.sub(r"\\\n\s*", "", body).splitlines() if line.strip()]
    return Block(needs, [shlex.split(line, comments=True) for line in joined], joined)


@pytest.fixture
def plugins_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from plasticity.envs.datasets.datasets import DATASETS
    from plasticity.metrics.catalogue import CATALOGUE

    registries: list[Registry[Any]] = [*(group.registry for group in REGISTERED.values()), DATASETS, CATALOGUE]
    for registry in registries:
        forget_entries(monkeypatch, registry)
    before, threads = set(sys.modules), torch.get_num_threads()
    yield
    forget_modules(before)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stands for those that a page has made before: with a checkpoint to resume, to evaluate and to branch from."""
    folder = tmp_path_factory.mktemp("docs") / "run"
    words = [
        "env=catch",
        "steps=60",
        "metrics.every_steps=0",
        "probe.every_steps=0",
        "progress=false",
        "checkpoint.at_steps=[50]",
    ]
    small = ["network.widths=[8]", "agent.warmup_env_steps=10", "agent.batch_size=4"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert run_agent.main([*words, *small, f"run_dir={folder}"]) == 0
    return folder


def standing_for_others(words: list[str], run: Path) -> list[str]:
    """The words with folders and files that are there in place of those that the page speaks of."""
    made = []
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("resume", "branch.run"):
            value = str(run)
        elif name in ("branch.step", "evaluation.step"):
            value = "50"
        elif value == "<folder>":
            value = "/data"
        made.append(f"{name}{equals}{value}")
    return made


@pytest.mark.parametrize("place", WITH_COMMANDS)
@pytest.mark.usefixtures("plugins_are_forgotten")
def test_every_command_is_one_that_the_program_takes(
    place: str, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = read(place)
    write_files(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in page.blocks:
        for words in block.commands:
            if words[:2] == PROGRAM:
                parse(standing_for_others(words[2:], finished_run))  # refuses by a ValueError that says what is wrong
            elif words[:2] == ["python", "-m"]:
                assert find_spec(words[2]), f"{place}: there is no module {words[2]}"
            else:
                assert words[0] in OTHERS, f"{place}: {' '.join(words)} is no command that is known here"


@pytest.mark.slow
@pytest.mark.parametrize("place", WITH_SHORT_COMMANDS)
def test_commands_that_need_nothing_can_be_run(place: str, tmp_path: Path) -> None:
    """The blocks of a page one after another in one folder; those of papers and results take hours."""
    page = read(place)
    write_files(page, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for block in page.blocks:
        for words in block.commands if not block.needs else ():
            assert words[:2] == PROGRAM, f"{place}: {' '.join(words)} must be marked by what it needs"
            call = [sys.executable, str(ROOT / "run_agent.py"), *words[2:]]
            done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, f"{place}: {' '.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("place", WITH_COMMANDS)
def test_marks_say_what_a_block_needs(place: str) -> None:
    fences = list(FENCE.finditer(text_of(place)))
    assert {fence["needs"] or "" for fence in fences} <= {"", *NEEDS}
    assert {fence["kind"] for fence in fences} <= {"bash", *NO_COMMANDS}
    assert text_of(place).count("<!-- needs:") == sum(1 for fence in fences if fence["needs"])


def test_a_page_with_a_wrong_setting_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(WRITTEN, "wrong.md", "```bash\npython run_agent.py env=catch \\\n    stpes=3\n```\n")
    (words,) = read("wrong.md").blocks[0].commands
    assert words == ["python", "run_agent.py", "env=catch", "stpes=3"]
    with pytest.raises(ValueError, match="did you mean steps"):
        parse(standing_for_others(words[2:], tmp_path))


def test_every_block_stands_on_one_page() -> None:
    found = [mark for text in WRITTEN.values() for mark in MARK.findall(text)]
    assert sorted(found) == sorted(BLOCKS)


def test_every_study_of_a_paper_is_on_the_page_of_that_paper() -> None:
    shown = {name: paper_of(study) for name, study in studies().items()}
    assert set(shown.values()) == {*PAPERS, None}
    for name, paper in shown.items():
        if paper is not None:
            assert f"python run_agent.py study={name}\n" in text_of(f"papers/{paper}.md")
            assert f"{{ #{name} }}" in text_of(f"papers/{paper}.md")


def write_files(page: Page, folder: Path) -> None:
    for name, text in page.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_the_example_of_your_own_loop_runs() -> None:
    """The first block of the page, with a module, data and a loss of a user's."""
    torch.manual_seed(0)
    source = next(fence["body"] for fence in FENCE.finditer(WRITTEN["adopt.md"]) if fence["kind"] == "python")
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    before = model[0].weight.detach().clone()
    given = {"torch": torch, "model": model, "observations": torch.randn(16, 4), "loader": [torch.randn(16, 4)] * 3}
    given["loss_of"] = lambda module, batch: module(batch).square().mean()
    exec(source, given)
    values = given["values"]
    assert 0 <= values["dormant_fraction"] <= 1
    assert not torch.equal(model[0].weight, before)
