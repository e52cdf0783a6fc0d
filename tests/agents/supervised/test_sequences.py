"""The supervised learner on sequences in which every token has a label."""

import pytest
import torch
from torch.nn import functional

from plasticity.agents.parts import PartBuilder
from plasticity.agents.supervised.agent import SupervisedLearner, SupervisedSettings, by_token
from plasticity.envs.experience import Examples, Experience, Place
from plasticity.interventions.registry import INTERVENTIONS
from plasticity.metrics.observer import observe
from plasticity.metrics.probe import ProbeObserver, ProbeSettings
from plasticity.metrics.undefined import Undefined
from plasticity.metrics.view import View
from plasticity.networks.torsos.feedforward import MLPSpec
from plasticity.networks.torsos.transformer import GPTSpec
from plasticity.optimizers.factory import OptimizerSettings
from plasticity.updates.execution import Execution

KINDS, LENGTH = 11, 6
SPECS = {"gpt": GPTSpec(widths=[8], residual_blocks=1, expansion=2), "mlp": MLPSpec(widths=[8])}


def learner(torso: str = "gpt", methods: tuple[str, ...] = (), compile: bool = False, bf16: bool = False) -> SupervisedLearner:
    builder = PartBuilder(
        SPECS[torso],
        (LENGTH,),
        torch.int64,
        OptimizerSettings(learning_rate=0.01),
        {name: INTERVENTIONS.named(name) for name in methods},
        execution=Execution(torch.bfloat16 if bf16 else None, compile),
    )
    return SupervisedLearner(SupervisedSettings(recent_examples=8), KINDS, True, builder)


def sequences(count: int, seed: int = 0) -> Examples:
    tokens = torch.randint(KINDS, (count, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    return Examples(tokens[:, :-1], tokens[:, 1:])


def test_tokens_become_examples() -> None:
    outputs, labels = torch.arange(12.0).view(2, 3, 2), torch.tensor([[0, 1, 0], [1, 1, 0]])
    rows, flat = by_token(outputs, labels)
    assert rows.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert flat.tolist() == [0, 1, 0, 1, 1, 0]
    assert by_token(rows, flat) == (rows, flat)


def test_loss_and_accuracy_are_means_over_all_tokens() -> None:
    agent, batch = learner(), sequences(5)
    outputs = agent.learner.predict(batch.inputs)
    assert outputs.shape == (5, LENGTH, KINDS)
    logs = agent.learn(Experience(batch, 0))
    losses, right = [], 0
    for row in range(5):
        for place in range(LENGTH):
            logits, label = outputs[row, place], int(batch.targets[row, place])
            losses.append(float(logits.exp().sum().log() - logits[label]))
            right += int(logits.argmax()) == label
    assert float(logs["online/loss"]) == pytest.approx(sum(losses) / 30, rel=1e-5)
    assert float(logs["online/accuracy"]) == pytest.approx(right / 30)
    assert agent.act(batch.inputs).shape == (5, LENGTH)


def test_scores_count_tokens_also_where_minibatches_differ_in_size() -> None:
    agent, all_ = learner(), sequences(7)
    outputs = agent.learner.predict(all_.inputs)
    parts = [Examples(all_.inputs[rows], all_.targets[rows]) for rows in (slice(0, 5), slice(5, 7))]
    score = agent.score(parts)
    assert float(score.loss) == pytest.approx(float(functional.cross_entropy(outputs.transpose(1, 2), all_.targets)), rel=1e-5)
    assert score.accuracy is not None
    assert float(score.accuracy) == pytest.approx(float((outputs.argmax(2) == all_.targets).float().mean()))


@pytest.mark.parametrize("bf16", [False, True])
def test_it_learns_what_follows(bf16: bool) -> None:
    agent, batch = learner(bf16=bf16), sequences(8)
    place = Place(0, 1, False, False)
    first = float(agent.learn(Experience(batch, 0, {}, place))["online/loss"])
    for _ in range(150):
        last = agent.learn(Experience(batch, 0, {}, place))
    assert first > 2.2  # log 11 is 2.4
    assert float(last["online/loss"]) < 0.8
    assert 0.3 < agent.online.means()["accuracy"] < 1
    assert 0.3 < agent.online.means()["loss"] < first


@pytest.mark.parametrize("method", ["l2", "self_normalized_resets", "continual_backprop", "redo"])
def test_interventions_see_every_token_of_the_units_in_the_mlp(method: str) -> None:
    agent = learner(methods=(method,))
    for seed in range(5):
        agent.learn(Experience(sequences(4, seed), 0))
    assert agent.learner.steps == 5


def test_a_learner_continues_from_its_state() -> None:
    whole, stopped, resumed = learner(), learner(), learner()
    batches = [Experience(sequences(3, seed), 0) for seed in range(6)]
    expected = [whole.learn(batch) for batch in batches][-1]
    for batch in batches[:3]:
        stopped.learn(batch)
    resumed.load_state_dict(stopped.state_dict())
    last = [resumed.learn(batch) for batch in batches[3:]][-1]
    assert torch.equal(torch.as_tensor(last["online/loss"]), torch.as_tensor(expected["online/loss"]))
    latest = resumed.sample_inputs("learner", 8, torch.Generator())
    assert latest is not None
    assert torch.equal(latest, torch.cat([sequences(3, 3).inputs, sequences(3, 4).inputs, sequences(3, 5).inputs])[-8:])


def test_a_network_without_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a label for every token, \(4, 6\), .* has outputs \(4, 11\): choose network=gpt"):
        learner("mlp").learn(Experience(sequences(4), 0))


def test_the_probe_gives_a_reason() -> None:
    agent = learner()
    agent.learn(Experience(sequences(4), 0))
    logs = observe(ProbeObserver(ProbeSettings(steps=2), 0), View(1, 0, agent))
    assert set(logs) == {"probe/loss", "probe/loss/learner"}
    for value in logs.values():
        assert isinstance(value, Undefined)
        assert value.reason == "the probe fits functions of numbers, and the inputs are tokens"
