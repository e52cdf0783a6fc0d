"""``mode=evaluate``: plays episodes with a checkpoint of a run and leaves the run as it is."""

import json
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from plasticity.agents.agent import Agent
from plasticity.envs.simulation.rendering import Camera
from plasticity.envs.stream import Stream
from plasticity.training.assembly import assemble
from plasticity.training.config.settings import Plan
from plasticity.training.evaluation.episodes import Episodes, EvaluationObserver, protocol
from plasticity.training.evaluation.video import MOST_GIF_PICTURES, VideoWriter
from plasticity.training.run import require_same_run
from plasticity.training.saving.checkpoint import checkpoint_path, latest_checkpoint, load_checkpoint, require_run, saved_steps
from plasticity.training.saving.saver import PARTS

RECORDS: Final = "evaluations.jsonl"


def evaluate_run(plan: Plan, folder: Path) -> list[str]:
    """Evaluates a checkpoint and adds a line to ``evaluations.jsonl``, the only file of the run folder that is written.

    The run may be in progress. With the run's own settings of evaluation, the episodes are those that the run plays at that step.

    Args:
        plan: The run's plan, with the settings of this evaluation; ``plan.run.video`` names a film of its first episode.
        folder: The run folder.

    Returns:
        A table for the user.

    Raises:
        ValueError: If there is no such checkpoint, it does not fit the plan, or no episodes can be played or filmed.
    """
    film = VideoWriter(Path(plan.run.video)) if plan.run.video else None
    state = _chosen_state(plan, folder)
    step = int(state["step"])
    agent, training, _ = assemble(plan)
    evaluation = EvaluationObserver(plan.evaluation, plan.env, plan.run.seed, agent, training)
    try:
        _restore(agent, training, state)
    except KeyError as error:
        raise ValueError(f"resume={folder}: the checkpoint has no {error}; another version of this program made it") from error
    filmed = [] if film is None else [_filmed(film, plan, evaluation, step)]  # first, because it may be impossible
    started = time.perf_counter()
    episodes = evaluation.evaluate(step)
    record = _record(plan, protocol(plan.evaluation, plan.env, training), step, episodes, time.perf_counter() - started)
    with (folder / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    training.close()
    return [*_table(record, folder), *filmed]


def _chosen_state(plan: Plan, folder: Path) -> dict[str, Any]:
    wanted = plan.evaluation.step
    path = latest_checkpoint(folder) if wanted is None else checkpoint_path(folder, wanted)
    if path is None or not path.exists():
        steps = ", ".join(map(str, saved_steps(folder))) or "none"
        raise ValueError(f"resume={folder} has no checkpoint of evaluation.step={wanted}; its checkpoints are of steps {steps}")
    state = load_checkpoint(path, replay=False)
    if wanted is not None and state["step"] != wanted:
        raise ValueError(f"the checkpoint of evaluation.step={wanted} in {folder} cannot be read; choose another")
    require_run(state, PARTS, f"resume={folder}")
    require_same_run(state["config"], plan.config)
    return state


def _restore(agent: Agent, training: Stream, state: Mapping[str, Any]) -> None:
    """Restores what evaluation depends on: the trained parts and the stream, but no replay, which may be large."""
    saved = state["agent"].get("parts", state["agent"])  # an agent of one part keeps it under its name
    for name, part in agent.parts.items():
        part.load_state_dict(saved[name])
    training.load_state_dict(state["stream"])


def _record(plan: Plan, told: str, step: int, episodes: Episodes, seconds: float) -> dict[str, Any]:
    return {
        "step": step,
        **episodes.summary(),
        "episodes": len(episodes.returns),
        "returns": episodes.returns.tolist(),
        "lengths": episodes.lengths.tolist(),
        "policy": plan.evaluation.policy,
        "random_action_probability": plan.evaluation.random_action_probability,
        "protocol": told,
        "conditions": episodes.conditions,
        "seed": plan.run.seed,
        "seconds": seconds,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _table(record: Mapping[str, Any], folder: Path) -> list[str]:
    extremes = f"from {record['return_min']:.4g} to {record['return_max']:.4g}"
    rows = {
        "return per episode": f"{record['return']:.4g}, standard deviation {record['return_std']:.4g}, {extremes}",
        "steps per episode": f"{record['length']:.4g}",
        "episodes": f"{record['episodes']}, in {record['seconds']:.1f} s",
        **{name: f"{value:.4g}" for name, value in record["conditions"].items()},
        "protocol": record["protocol"],
        "written to": str(folder / RECORDS),
    }
    return [f"Evaluated {folder} at step {record['step']}.", *(f"  {label:<30}{value}" for label, value in rows.items())]


def _filmed(film: VideoWriter, plan: Plan, evaluation: EvaluationObserver, step: int) -> str:
    """Films the first episode of an evaluation with one copy of the environment, and returns a line about it."""
    try:
        camera = Camera(plan.env, plan.run.seed, plan.evaluation.episode_steps)
    except ValueError as error:
        raise ValueError(f"video={film.path}: {error}") from error
    try:
        film.pictures_per_second = camera.pictures_per_second
        with film:
            (score,), _, _ = evaluation.play_in(camera.stream, step, 1, lambda seen: film.add(camera.picture(seen)))
    except ValueError as error:
        raise ValueError(f"video={film.path}: {error}") from error
    finally:
        camera.close()
    cut = f", of which the first {MOST_GIF_PICTURES}" if film.path.suffix == ".gif" and film.count > MOST_GIF_PICTURES else ""
    return f"  {'film':<30}{film.path}, an episode of {film.count} steps{cut}, return {float(score):.4g}"
