"""Studies by the paper that they answer, with what came out of those that were run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from plasticity.training.studies.reading import read_study
from plasticity.training.studies.specification import StudySettings
from reference_pages.files import CONFIGS, ROOT, choices
from reference_pages.markdown import code, escaped, number, table

RESULTS: Final = ROOT / "docs" / "results"


class Paper(NamedTuple):
    """One page of the site.

    Attributes:
        title: Of the page.
        marks: What ``source: paper`` of a study contains if the page shows it.
    """

    title: str
    marks: tuple[str, ...]


PAPERS: Final[Mapping[str, Paper]] = {
    "load_balancing": Paper("Load balancing neurons", ("Load Balancing Neurons",)),
    "thesis": Paper("Resets adapted to the activation", ("thesis",)),
    "self_normalized_resets": Paper("Self-normalized resets", ("Self-Normalized Resets",)),
    "perpetually_trainable": Paper("Perpetually trainable networks", ("perpetually trainable",)),
    "loss_of_plasticity": Paper("Loss of plasticity in deep continual learning", ("Dohare", "slides")),
}

# What was run of a study's question without the study.
ELSEWHERE: Final[Mapping[str, str]] = {
    "thesis_mixed": "Of one seed there are [single runs](../results/README.md#a-deeper-network-of-mixed-activations).",
    "thesis_times": "A benchmark [measured the times](../results/running_times/index.html): "
    "`python -m benchmarks.running_times`.",
}


def studies() -> dict[str, StudySettings]:
    """Returns the project's studies by name."""
    return {path.stem: read_study(path)[0] for path in sorted((CONFIGS / "study").glob("*.yaml"))}


def paper_of(study: StudySettings) -> str | None:
    """Returns the page that shows a study, a key of ``PAPERS``; None for one that answers no paper.

    Raises:
        ValueError: No page shows the paper that the study names, or two do.
    """
    if study.source is None:
        return None
    found = [page for page, paper in PAPERS.items() if any(mark in study.source.paper for mark in paper.marks)]
    if len(found) != 1:
        raise ValueError(f"study {study.name}: paper {study.source.paper!r} is shown by {found}; one page of PAPERS must show it")
    return found[0]


def page() -> str:
    """Returns the page of all studies."""
    rows = []
    for name, study in studies().items():
        paper = paper_of(study)
        source = "" if paper is None else f"[{PAPERS[paper].title}](../papers/{paper}.md#{name}): {_items(study)}"
        rows.append((code(name), escaped(study.title), source, _size(study)))
    about = (
        "`study=<name>` runs one, see [studies](../guide/studies.md). A study that answers figures or tables of a paper is "
        "described on the page of the paper."
    )
    return f"# Studies\n\n{about}\n\n{table(('study', 'title', 'answers', 'size'), rows)}"


def of_paper(paper: str) -> str:
    """Returns the sections of a paper's page, one for each study."""
    comments = {name: each.comment[1:] for name, each in choices("study").items()}
    found = {name: study for name, study in studies().items() if paper_of(study) == paper}
    return "\n\n".join(_section(name, study, comments[name]) for name, study in found.items())


def _section(name: str, study: StudySettings, comment: Sequence[str]) -> str:
    items = _items(study)
    parts = [
        f"## {escaped(study.title)} {{ #{name} }}",
        f"**{items[:1].upper()}{items[1:]}.** {escaped(study.about)}",
        f"{_size(study)}." + "".join(f" {escaped(block)}" for block in comment),
        f"<!-- needs: time -->\n```bash\npython run_agent.py study={name}\n```",
        result(name, study),
    ]
    return "\n\n".join(parts)


def _items(study: StudySettings) -> str:
    return escaped("; ".join(study.source.items)) if study.source is not None else ""


def _size(study: StudySettings) -> str:
    cells, seeds = len(study.pairs), len(study.seeds)
    steps = f"{number(study.steps)} steps" if study.steps is not None else "the experiment's steps"
    return f"{_counted(cells, 'cell')} of condition and method, {_counted(seeds, 'seed')}, {steps} a run"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def result(name: str, study: StudySettings) -> str:
    """Says what came out so far."""
    file = RESULTS / name / "report.json"
    printed = len(study.report.published)
    published = f" The report prints {printed} numbers of the paper in its table." if printed else ""
    if not file.is_file():
        return " ".join(filter(None, ["The study has not been run at length yet.", ELSEWHERE.get(name, ""), published.strip()]))
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    answers = [f"- {escaped(answer)}" for answer in report["answers"]]
    head = f"What came out so far; all of it is on [its page](../results/{name}/index.html).{published}"
    return "\n".join([head, "", *answers])
