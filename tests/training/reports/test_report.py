import csv
import gzip
import json
import re
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from compared_runs import write_comparison

from plasticity.training.reports.comparison import read_comparison
from plasticity.training.reports.figures.drawing import styles
from plasticity.training.reports.output.bundle import changed
from plasticity.training.reports.output.elements import legend
from plasticity.training.reports.output.tables import Table, latex_text, to_csv, to_html, to_latex, to_markdown
from plasticity.training.reports.report import make_report, report
from plasticity.training.reports.specification import Figure, Outcome, ReportSettings, report_settings

VOID = {"meta", "img", "line", "circle", "path", "br"}


class Checked(HTMLParser):
    """Refuses tags that do not close, and collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        self.ids += [str(known["id"])] if "id" in known else []
        self.images += [known] if tag == "img" else []
        self.links += [str(known["href"])] if "href" in known else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module", autouse=True)
def _few_figures() -> Iterator[None]:
    """Most of the time of a report goes into figures, which have tests of their own."""
    few = [Figure(id="outcome", values=["task/online_accuracy"]), Figure(id="final", kind="final")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plasticity.training.reports.report.default_figures", lambda comparison: few)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    write_comparison(root / "runs <b>&co")
    page = report([root / "runs <b>&co"], root / "out", root / "all.zip")
    assert page == root / "out" / "index.html"
    return root


@pytest.fixture(scope="module")
def page(made: Path) -> Checked:
    checked = Checked()
    checked.feed((made / "out" / "index.html").read_text())
    assert checked.open == []
    return checked


def test_the_folder_holds_what_a_paper_needs(made: Path) -> None:
    out = made / "out"
    assert (out / "index.html").stat().st_size < 15_000_000
    report_json = json.loads((out / "report.json").read_text())
    for figure in report_json["figures"]:
        assert (out / "figures" / f"{figure['id']}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{figure['id']}.pdf").read_bytes().startswith(b"%PDF")
        assert figure["caption"]
    for name in ("main", "differences", "relations", "loss", "cost"):
        assert {path.suffix for path in (out / "tables").glob(f"{name}.*")} == {".csv", ".md", ".tex"}
    with (out / "data" / "runs.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12


def test_values_are_the_tidy_table(made: Path) -> None:
    with gzip.open(made / "out" / "data" / "values.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run", "condition", "method", "seed", "step", "task", "name", "value"]
    assert len(rows) == 12 * 4 * 7
    first = next(row for row in rows if row["name"] == "task/online_accuracy" and row["method"] == "redo" and row["seed"] == "2")
    assert float(first["value"]) == 0.88 - 0.02
    assert first["step"] == "25"
    assert first["task"] == "0"


def test_the_page_needs_nothing_from_elsewhere(page: Checked) -> None:
    assert not page.tags & {"script", "link", "iframe", "object", "b"}
    assert page.images
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.images)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert not [link for link in page.links if re.match(r"[a-z]+:", link)]


def test_links_lead_somewhere(made: Path, page: Checked) -> None:
    from urllib.parse import unquote

    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (made / "out" / unquote(link)).exists(), link


def test_the_page_is_in_order(page: Checked) -> None:
    order = ["answer", "warnings", "table", "curves", "differences", "relations", "cost", "runs", "settings"]
    assert [id for id in page.ids if id in order] == order
    assert len(page.ids) == len(set(page.ids))


def test_numbers_on_the_page_are_written_down(made: Path, page: Checked) -> None:
    numbers = {number["id"]: number for number in json.loads((made / "out" / "report.json").read_text())["numbers"]}
    found = next(number for id, number in numbers.items() if id.startswith("difference/") and number["text"].startswith("0.030"))
    assert found["text"] == "0.030 [0.005, 0.055]"
    assert found["n"] == 3
    assert found["N"] == 3
    assert found["seeds"] == [0, 1, 2]
    assert "paired differences by seed" in found["formula"]
    told = " ".join(page.texts)
    assert found["text"] in told
    texts = {number["text"] for number in numbers.values()}
    shown = set(re.findall(r"[\d.-]+ \[[\d.-]+, [\d.-]+\]", told))
    assert shown
    assert shown <= texts


def test_names_are_escaped(made: Path, page: Checked) -> None:
    assert "runs <b>&co" in page.texts
    assert "<b>" not in (made / "out" / "index.html").read_text()


def test_a_report_replaces_an_earlier_one_and_nothing_else(made: Path, tmp_path: Path) -> None:
    stale = made / "out" / "figures" / "stale.png"
    stale.write_bytes(b"")
    before = (made / "out" / "index.html").read_bytes()
    report([made / "runs <b>&co"], made / "out")
    assert not stale.exists()
    assert (made / "out" / "index.html").read_bytes() == before
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no report"):
        report([made / "runs <b>&co"], tmp_path)


def test_what_is_published_names_no_folder_of_the_machine(made: Path) -> None:
    files = {
        str(path): path.read_bytes() for path in (made / "out").rglob("*") if path.suffix in (".html", ".json", ".csv", ".md")
    }
    with zipfile.ZipFile(made / "all.zip") as file:
        files |= {name: file.read(name) for name in file.namelist() if not name.endswith((".npz", ".png", ".pdf", ".gz"))}
    assert len(files) > 40
    assert [name for name, content in files.items() if str(made).encode() in content] == []
    runs = json.loads((made / "out" / "report.json").read_text())["runs"]
    assert all((made / "out" / run["folder"]).is_dir() for run in runs if run["state"] != "missing")


def test_the_page_is_rebuilt_from_the_bundle(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made / "all.zip") as file:
        names = file.namelist()
    assert "report/index.html" in names
    assert sum(name.endswith("/metrics.csv") for name in names) == 12
    assert sum(name.endswith("/provenance.json") for name in names) == 12
    assert sum(name.endswith(".npz") for name in names) == 48  # a matrix and an array of each at two steps
    again = report([made / "all.zip"], tmp_path / "again")
    old, new = (json.loads((place / "report.json").read_text()) for place in (made / "out", again.parent))
    for content in (old, new):
        for number in content["numbers"]:
            number["groups"].pop("folder", None)
    for part in ("title", "answers", "warnings", "numbers", "figures", "specification", "methods"):
        assert old[part] == new[part], part
    assert (again.parent / "figures" / "final.png").read_bytes() == (made / "out" / "figures" / "final.png").read_bytes()


def test_a_run_whose_state_only_its_checkpoint_tells_keeps_it_in_the_bundle(tmp_path: Path) -> None:
    runs = write_comparison(tmp_path / "runs")
    one = runs / "relu_none_0"
    (one / "status.json").unlink()
    lines = (one / "metrics.csv").read_text().splitlines()
    (one / "metrics.csv").write_text("\n".join(line for line in lines if not line.startswith("100,")) + "\n")
    (one / "checkpoints").mkdir()
    (one / "checkpoints" / "step_000000100.pt").write_bytes(b"")
    page = report([runs], tmp_path / "out", tmp_path / "b.zip")
    again = report([tmp_path / "b.zip"], tmp_path / "again")
    states = [[run["state"] for run in json.loads((place.parent / "report.json").read_text())["runs"]] for place in (page, again)]
    assert states[0] == states[1] == ["finished"] * 12


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is not a bundle"):
        report([tmp_path / "b.zip"], tmp_path / "out")
    with pytest.raises(ValueError, match="needs the folder"):
        report([])


def test_a_figure_that_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    spec = ReportSettings(figures=[Figure(id="none", title="Loss", values=["no/such"]), Figure(id="final", kind="final")])
    comparison = read_comparison([write_comparison(tmp_path / "runs")], spec)
    text = make_report(comparison, tmp_path / "out").read_text()
    assert "Loss is not drawn: no run has rows of no/such by step." in text


def test_a_page_that_would_become_too_large_links_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plasticity.training.reports.output import page

    monkeypatch.setattr(page, "MOST_BYTES", 60_000)
    made = report([write_comparison(tmp_path / "runs")], tmp_path / "out")
    assert made.stat().st_size < 150_000
    assert "This page would become too large with it" in made.read_text()
    assert "data:image/png" in made.read_text()


def test_one_run_alone_has_a_page(tmp_path: Path) -> None:
    runs = write_comparison(tmp_path / "runs")
    made = report([runs / "relu_none_0"])
    assert made == runs / "relu_none_0" / "report" / "index.html"
    assert "0.8" in made.read_text()


def test_damaged_and_missing_runs_are_listed(tmp_path: Path) -> None:
    runs = write_comparison(tmp_path / "runs")
    (runs / "relu_none_0" / "config.yaml").write_text("{")
    (runs / "relu_redo_1" / "metrics.csv").write_bytes(b"\xff\x00")
    (runs / "tanh_none_0" / "status.json").write_text('{"state": "failed", "step": 50, "steps": 100, "error": "loss <nan>"}')
    made = report([runs], tmp_path / "out", tmp_path / "b.zip")
    text = made.read_text()
    assert text.count('<span class="state">') == 12
    assert "loss &lt;nan&gt;" in text
    again = json.loads((report([tmp_path / "b.zip"], tmp_path / "again").parent / "report.json").read_text())
    assert sorted(run["state"] for run in again["runs"]) == sorted(
        run["state"] for run in json.loads((tmp_path / "out" / "report.json").read_text())["runs"]
    )


def test_settings_survive_the_bundle() -> None:
    outcome = Outcome(value="a", part=[0.5, 1.0], scale=100.0)
    spec = ReportSettings(outcome=outcome, figures=[Figure(id="x", kind="scatter", at=0.25, outcome=outcome)])
    assert report_settings(json.loads(json.dumps(changed(spec)))) == spec


def test_tables_in_four_ways() -> None:
    table = Table("t", "100 % of a_b", ["method", "x"], [["a|b_c", "0.5 [0.4, 0.6]"], ["<i>", "1"]], frozenset({(0, 1)}), "Note.")
    assert to_csv(table) == 'method,x\na|b_c,"0.5 [0.4, 0.6]*"\n<i>,1\n'
    assert "| a\\|b_c | **0.5 [0.4, 0.6]** |" in to_markdown(table)
    assert "a|b\\_c & \\textbf{0.5 [0.4, 0.6]} \\\\" in to_latex(table)
    assert "\\caption{100 \\% of a\\_b. Note.}" in to_latex(table)
    assert '<th scope="row">&lt;i&gt;</th>' in to_html(table)
    assert "<strong>0.5 [0.4, 0.6]</strong>" in to_html(table)
    assert latex_text("a\\{}^~#") == "a\\textbackslash{}\\{\\}\\textasciicircum{}\\textasciitilde{}\\#"


def test_legends_have_a_mark_for_every_style() -> None:
    assert legend(styles([f"m{k}" for k in range(25)])).count("<li>") == 25


def test_lost_rows_and_damaged_heatmaps_are_warnings_of_the_page(tmp_path: Path) -> None:
    runs, relu, tanh = write_comparison(tmp_path / "runs"), "activations=[relu]", "activations=[tanh]"
    table = runs / "tanh_none_1" / "metrics.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("50,task/online")) + "\n")
    for name, text in {"relu_none_0": "garbage\n1,2\n", "relu_none_1": "", "relu_redo_0": None}.items():
        heatmap = runs / name / "heatmap.csv"
        heatmap.write_text(heatmap.read_text()[:300] if text is None else text)
    (runs / "relu_redo_1" / "heatmap.csv").unlink()
    spec = ReportSettings(Outcome("task/online_accuracy", by="task"), figures=[Figure(id="h", kind="heatmap")])
    make_report(read_comparison([runs], spec), tmp_path / "out")
    said = json.loads((tmp_path / "out" / "report.json").read_text())["warnings"]
    assert (
        f"Runs of one group have unequal numbers of rows, as if some were lost: {tanh} / none (3, 4 of task/online_accuracy)."
        in said
    )
    told = ", ".join(f"{relu} / {name} (damaged)" for name in ("none seed 0", "none seed 1", "redo seed 0"))
    told += f" and {relu} / redo seed 1 (missing)"
    assert f"Of some runs heatmap.csv is damaged or missing; figures show what can be read: {told}." in said
    whole = write_comparison(tmp_path / "whole")
    make_report(read_comparison([whole], spec), tmp_path / "again")
    assert len(json.loads((tmp_path / "again" / "report.json").read_text())["warnings"]) == 1  # few seeds


def test_two_outcomes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two outcomes are called a/b; give one of them a label of its own"):
        report_settings({"outcome": "a/b", "also": [{"value": "a/b", "reduce": "last"}]})
    report_settings({"outcome": "a/b", "also": [{"value": "a/b", "reduce": "last", "label": "at the end"}]})
