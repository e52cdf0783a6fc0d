from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from plasticity.agents.parts import PartBuilder
from plasticity.interventions.base import Intervention, Update
from plasticity.interventions.methods.l2 import L2
from plasticity.interventions.methods.layer_norm import LayerNorm
from plasticity.interventions.methods.redo import ReDo
from plasticity.networks.spec import HeadSpec, NetworkSpec
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution

BuildPart = Callable[..., PartBuilder]
HEAD = HeadSpec("q", 2)


def test_parts_of_one_builder_have_weights_and_methods_of_their_own(builder: BuildPart) -> None:
    build = builder({"redo": ReDo})
    actor, critic = build("actor", HEAD), build("critic", HEAD)
    assert actor.interventions["redo"] is not critic.interventions["redo"]
    pairs = zip(actor.network.parameters(), critic.network.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_same_seed_and_name_same_weights(builder: BuildPart) -> None:
    one, two, other = (builder(seed=seed)("q", HEAD).network for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_filter_of_parts(builder: BuildPart) -> None:
    build = builder({"l2": lambda: L2(parts=["q"]), "redo": lambda: ReDo(parts=["actor", "critic"]), "reset": lambda: L2()})
    assert list(build("q", HEAD).interventions) == ["l2", "reset"]
    assert list(build("critic", HEAD).interventions) == ["redo", "reset"]


def test_a_filtered_method_changes_no_structure(builder: BuildPart) -> None:
    build = builder({"layer_norm": lambda: LayerNorm(parts=["actor"])})
    assert build("actor", HEAD).network.spec.normalisation == ["layer"]
    assert build("critic", HEAD).network.spec.normalisation == []


def test_builder_leaves_its_specification_alone(builder: BuildPart) -> None:
    spec = MLPSpec(widths=[5])
    build = builder({"layer_norm": LayerNorm}, spec=spec)
    first, second = build("q", HEAD), build("q", HEAD)
    assert spec.normalisation == []
    assert first.network.spec.normalisation == second.network.spec.normalisation == ["layer"]


@dataclass
class Widen(Intervention):
    """Doubles the widths; notes in ``attach`` what it finds."""

    def build(self, spec: NetworkSpec) -> NetworkSpec:
        return replace(spec, widths=[2 * width for width in spec.widths])

    def attach(self, u: Update) -> None:
        assert u.batch is None
        self.found = (u.step, len(u.optimizer.param_groups[0]["params"]), u.network.units.layers[0].units)


def test_structure_comes_before_the_optimizer_and_attach_after_it(builder: BuildPart) -> None:
    method = Widen()
    builder({"widen": lambda: method}, spec=MLPSpec(widths=[5]))("q", HEAD)
    assert method.found == (0, 4, 10)


def test_builds_run_in_the_order_of_the_config(builder: BuildPart) -> None:
    @dataclass
    class Append(Intervention):
        norm: str = ""

        def build(self, spec: NetworkSpec) -> NetworkSpec:
            return replace(spec, normalisation=[*spec.normalisation, self.norm])

    methods = {"first": lambda: Append(norm="layer_non_affine"), "second": lambda: Append(norm="batch")}
    assert builder(methods)("q", HEAD).network.spec.normalisation == ["layer_non_affine", "batch"]


def test_settings_reach_the_updater(builder: BuildPart) -> None:
    updater = replace(builder(), execution=Execution(torch.bfloat16), seed=7)("q", HEAD)
    assert (updater.execution.autocast, updater.seed, updater.part, updater.max_gradient_norm) == (torch.bfloat16, 7, "q", None)


def test_a_part_can_have_a_network_and_an_optimizer_of_its_own(builder: BuildPart) -> None:
    made = replace(
        builder(optimizer=OptimizerSettings(learning_rate=0.5)),
        part_specs={"critic": MLPSpec(widths=[3])},
        part_optimizers={"critic": OptimizerSettings(learning_rate=0.25, max_gradient_norm=2.0)},
    )
    actor, critic = made("actor", HEAD), made("critic", HEAD)
    assert [layer.units for layer in actor.network.units.layers] == [8, 6]
    assert [layer.units for layer in critic.network.units.layers] == [3]
    assert [part.optimizer.param_groups[0]["lr"] for part in (actor, critic)] == [0.5, 0.25]
    assert [part.max_gradient_norm for part in (actor, critic)] == [None, 2.0]
