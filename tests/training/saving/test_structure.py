"""What tells networks of other parameters apart, and a run's folder says it."""

import json
from pathlib import Path

import run_agent
from plasticity.training.assembly import assemble
from plasticity.training.config.parsing import Train, parse
from plasticity.training.saving.structure import structure_hash

WORDS = ["env=catch", "network=mlp", "network.widths=[4]", "agent.buffer_transitions=100"]


def hash_of(*words: str) -> str:
    command = parse([*WORDS, *words])
    assert isinstance(command, Train)
    return structure_hash(assemble(command.plan).agent)


def test_parameters_tell_apart_and_nothing_else_does() -> None:
    plain = hash_of()
    assert plain == hash_of("seed=1", "optimizer.learning_rate=0.1") == hash_of("intervention=[l2,redo]")
    # layers without parameters leave the initial weights as they are
    assert plain == hash_of("intervention=[load_balancing]")
    assert plain == hash_of("intervention=[layer_norm]", "interventions.layer_norm.affine=false")
    assert len({plain, hash_of("intervention=[layer_norm]"), hash_of("network.activations=[crelu]")}) == 3


def test_a_run_says_it(tmp_path: Path) -> None:
    words = [*WORDS, "steps=10", "progress=false", f"run_dir={tmp_path / 'r'}", "probe.every_steps=0", "metrics.every_steps=0"]
    assert run_agent.main(words) == 0
    assert json.loads((tmp_path / "r" / "provenance.json").read_text())["structure"] == hash_of()
