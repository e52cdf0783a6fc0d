"""The reference of what is registered: one page for each kind, from the registries and the cards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from plasticity.adopt.needs import Needs, needs_of
from plasticity.agents.registry import AGENTS
from plasticity.envs.datasets.datasets import DATASETS
from plasticity.envs.registry import STREAMS
from plasticity.interventions.base import Intervention
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.catalogue import CATALOGUE
from plasticity.networks.registry import HEADS, TORSOS
from plasticity.networks.spec import NetworkSpec
from plasticity.optimizers.factory import OPTIMIZERS, OptimizerSettings
from plasticity.settings.fields import describe
from reference_pages.files import choices, started_from
from reference_pages.markdown import card, code, escaped, settings_table, table

_LEARNS: Final = {"environment": "environments", "examples": "data streams"}
_GROUPS: Final = {
    "activity": "Silent and linear units",
    "firing": "Firing rates",
    "feature": "Features and their rank",
    "output": "Outputs",
    "parameter": "Weights",
    "update": "Updates and the optimizer",
    "loss": "Gradients of the loss",
    "curvature": "Curvature of the loss",
    "predictor": "Predictors of what is learned next",
}


def agents() -> str:
    """Returns the page of agents."""
    words, parts = started_from("agent"), []
    for name, entry in AGENTS.items():
        about = f"Learns from {_LEARNS[entry.learns_from]}; actions or targets: {entry.actions}."
        parts += [f"## {name}", card(entry.settings.__doc__), about, _chosen("agent", words.get(name, ()))]
        parts += [settings_table(entry.settings, section="agent")]
    return _page("Agents", "Settings of an agent stand under `agent.`; `list=agents.<name>` prints them too.", parts)


def streams() -> str:
    """Returns the page of streams."""
    words, parts = started_from("env"), []
    for name, cls in STREAMS.items():
        parts += [f"## {name}", card(cls.__doc__), _chosen("env", words.get(name, ()))]
        parts += [settings_table(cls, section="env")]
    about = (
        "A stream is an environment or a sequence of supervised tasks. Its settings stand under `env.`. The word of "
        "`env=` is the name of a file, which may set more than its stream's defaults."
    )
    return _page("Streams", about, parts)


def datasets() -> str:
    """Returns the page of data sets."""
    rows = [
        (code(name), escaped(_first_paragraph(entry.load.__doc__)), "published" if entry.official_test else "none published")
        for name, entry in DATASETS.items()
    ]
    about = (
        "Chosen by `env.dataset=<name>` on streams that have this setting. "
        "[Data](../guide/data.md) says where files are kept and what cannot be fetched."
    )
    return _page("Data sets", about, [table(("name", "what it holds", "split into training and test set"), rows)])


def networks() -> str:
    """Returns the page of torsos."""
    words, common = started_from("network"), describe(NetworkSpec)
    parts = ["## Settings of every network", settings_table(NetworkSpec, section="network")]
    for name, cls in TORSOS.items():
        own = describe(cls)
        same = [each for each in common if each in own and own[each] == common[each]]
        parts += [f"## {name}", card(cls.__doc__), _chosen("network", words.get(name, ()))]
        parts += [settings_table(cls, section="network", leave_out=same)] if len(own) > len(same) else []
    about = (
        "A network is a torso and a head. Settings of the torso stand under `network.`; `network.parts.<part>.<setting>` is for "
        "one part of an agent alone. Under each torso only the settings that it adds or changes are listed."
    )
    return _page("Networks", about, parts)


def heads() -> str:
    """Returns the page of heads."""
    names: dict[str, list[str]] = {}
    for name, cls in HEADS.items():
        names.setdefault(card(cls.__doc__), []).append(name)
    rows = [(", ".join(map(code, kinds)), " ".join(text.split("\n\n"))) for text, kinds in names.items()]
    about = "The agent and the problem decide on the head; a head is not chosen by a word."
    return _page("Heads", about, [table(("kind", "what it computes"), rows)])


def optimizers() -> str:
    """Returns the page of optimizers."""
    words = started_from("optimizer")
    parts = ["## Settings of every optimizer", settings_table(OptimizerSettings, section="optimizer")]
    rows = [(code(name), escaped(entry.description), _words(words.get(name, ()))) for name, entry in OPTIMIZERS.items()]
    parts += ["## Optimizers", table(("name", "what it is", "words of `optimizer=`"), rows)]
    about = "`optimizer.parts.<part>.<setting>` is for one part of an agent alone."
    return _page("Optimizers", about, parts)


def interventions() -> str:
    """Returns the page of interventions: each with its card, its settings and where it can be used."""
    bundles = {name: tuple(each.values.get("interventions", {}) or {}) for name, each in choices("method").items()}
    parts, common = [], list(describe(Intervention))
    for name, cls in INTERVENTIONS.items():
        held = [bundle for bundle, members in bundles.items() if name in members]
        parts += [f"## {name}", card(cls.__doc__), _use(needs_of(cls), held)]
        parts += [settings_table(cls, leave_out=common)]
        parts += [f"- Refuses `{other}`: {escaped(why)}" for other, why in sorted(cls.conflicts.items())]
    about = (
        "`intervention=[<name>,<name>]` turns interventions on, in this order. Each is also a method of its own name. "
        "A setting is written `interventions.<name>.<setting>`. Every intervention also has the setting `parts`: names of the "
        "parts of the agent to act on (`q`, `learner`, ...), empty for all. "
        "[Which method runs on which agent](../interventions.md) is a table of its own, and so is "
        "[what each needs of your own loop](../adopt.md#what-each-method-needs)."
    )
    return _page("Interventions", about, parts)


def metrics() -> str:
    """Returns the page of metrics, a table for each group."""
    parts = []
    for group, title in _GROUPS.items():
        names = [name for name in CATALOGUE if Path(CATALOGUE.file_of(name)).stem == f"{group}_metrics"]
        rows = [_metric_row(name) for name in names]
        parts += [f"## {title}", table(("metric", "what", "range", "when plasticity is lost", "cost", "set"), rows)]
    about = (
        "The set `default` is measured unless you choose otherwise; the others by `metrics=all` or by name. "
        "[Metrics](../guide/metrics.md) says how values are pooled, when they are taken and where they are written."
    )
    return _page("Metrics", about, parts)


def _metric_row(name: str) -> tuple[str, ...]:
    entry = CATALOGUE[name]
    said = (entry.description, entry.range, entry.direction, entry.cost)
    return (code(name), *map(escaped, said), "default" if entry.default else "all")


def _use(needs: Needs, bundles: Sequence[str]) -> str:
    adopted = "In your own loop: yes." if not needs.refused else f"In your own loop: no, it {needs.refused}."
    return f"{adopted} Methods that use it: {_words(bundles)}." if bundles else adopted


def _chosen(group: str, words: Sequence[str]) -> str:
    return f"Words of `{group}=`: {_words(words)}." if words else f"No file of `configs/{group}/` starts from it."


def _words(words: Sequence[str]) -> str:
    return ", ".join(map(code, words))


def _first_paragraph(doc: str | None) -> str:
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def _page(title: str, about: str, parts: Sequence[str]) -> str:
    return "\n\n".join([f"# {title}", about, *filter(None, parts)]) + "\n"
