"""The examples, with few steps; those of Stable-Baselines3 in an environment of their own."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from subprocess import CompletedProcess, run
from types import ModuleType

import pytest
import torch

from plasticity.interventions.methods.redo import ReDo

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
# Methods that never act and metrics leave the run as it was; a loaded model goes on with the methods' state.
CHECKS = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
import torch
from plasticity.adopt import AdoptedOptimizer
from plasticity.interventions.methods.redo import ReDo

spec = spec_from_file_location("example", sys.argv[1])
example = module_from_spec(spec)
spec.loader.exec_module(example)
first, loaded = example.main()
owners = lambda model: [model.actor, model.critic] if hasattr(model, "actor") and hasattr(model, "critic") else [model.policy]
updates = lambda model: [owner.optimizer.steps for owner in owners(model)]
assert all(isinstance(owner.optimizer, AdoptedOptimizer) for owner in owners(loaded))
assert all(0 < before < after for before, after in zip(updates(first), updates(loaded))), (updates(first), updates(loaded))
print("UPDATES", *updates(first), *updates(loaded))

example.ReDo = lambda **settings: ReDo(every_updates=0)
kind, env, steps = sys.argv[2:]
runs = []
for callback in (example.Plasticity(), None):
    model = getattr(example, kind)("MlpPolicy", env, seed=3, device="cpu")
    model.learn(int(steps), callback=callback)
    runs.append(model.policy.state_dict())
assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[1]), "the run is another one"
print("SAME RUN")
"""


def loaded(name: str) -> ModuleType:
    spec = spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_loop_in_one_file_resets_units(capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = loaded("cleanrl_dqn").main(300, ReDo(threshold=0.5, every_updates=50))
    assert optimizer.steps == 200  # one from step 100 on
    assert optimizer.logs["redo/units_reset"] > 0  # at the latest update, a multiple of 50


def test_what_is_found_in_a_residual_network(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    optimizer, resets = loaded("own_resnet").main(1)
    assert optimizer.steps == 15  # 1797 digits in minibatches of 128
    assert resets > 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["blocks.0.first.0: 16 units, relu", "blocks.1.first.0: 32 units, relu"]
    summed = "units are left alone: its units are summed with those of another path at own_resnet.py:"
    left = [("stem.0", 16), ("blocks.0.second.0", 16), ("blocks.1.second.0", 32), ("blocks.1.shortcut.0", 32)]
    assert all(line.startswith(f"{name}: {units} {summed}") for line, (name, units) in zip(told[2:6], left, strict=True))


def test_frozen_layers_stay_as_they_were() -> None:
    torch.manual_seed(0)
    model, optimizer = loaded("frozen_and_shared").frozen_backbone(10)
    assert optimizer.network.units.names == ("1",)
    assert [each.name for each in optimizer.network.units.excluded] == ["0.0", "0.2"]
    assert optimizer.logs["redo/units_reset"] > 0
    torch.manual_seed(0)
    untrained, _ = loaded("frozen_and_shared").frozen_backbone(0)
    same = [torch.equal(value, untrained.state_dict()[name]) for name, value in model.state_dict().items()]
    assert same == [True] * 4 + [False] * 4


def test_each_optimizer_resets_what_it_alone_trains() -> None:
    torch.manual_seed(0)
    _, (of_policy, of_value) = loaded("frozen_and_shared").two_optimizers(10)
    assert of_policy.network.units.names == ("encoder.0", "policy.0")
    assert of_value.network.units.names == ("value.0",)
    assert of_policy.steps == of_value.steps == 10
    assert of_policy.logs["redo/units_reset"] > 0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with Stable-Baselines3 on top of the packages that are installed already; it fails if it cannot be installed."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", str(folder)], check=True)
    site = next(folder.glob("lib*/python*/site-packages"), folder / "Lib" / "site-packages")
    present = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "present.pth").write_text("\n".join(present), encoding="utf-8")
    python = next(path for path in (folder / "bin" / "python", folder / "Scripts" / "python.exe") if path.exists())
    done = run([str(python), "-m", "pip", "install", "stable-baselines3", "torch~=2.13.0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def ran(python: Path, *words: str) -> "CompletedProcess[str]":
    variables = {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = run([str(python), *words], capture_output=True, text=True, env=variables, cwd=python.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in HERE.glob("*.py") if not path.name.startswith("test_")))
def test_every_file_runs_by_itself(environment: Path, name: str) -> None:
    done = ran(environment, str(HERE / f"{name}.py"))
    assert "dormant_fraction" in done.stdout or "units_reset" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "env", "steps", "updates"),
    [
        # PPO: 1000 steps are 4 rollouts of 250, each 10 epochs of 5 minibatches; then as many again.
        ("stable_baselines_ppo", "PPO", "CartPole-v1", "500", "200 400"),
        ("stable_baselines_dqn", "DQN", "CartPole-v1", "400", ""),
        ("stable_baselines_sac", "SAC", "Pendulum-v1", "150", ""),
    ],
)
def test_stable_baselines_goes_on_from_what_it_saved(
    environment: Path, name: str, kind: str, env: str, steps: str, updates: str
) -> None:
    done = ran(environment, "-c", CHECKS, str(HERE / f"{name}.py"), kind, env, steps)
    assert "SAME RUN" in done.stdout
    assert f"UPDATES {updates}" in done.stdout
