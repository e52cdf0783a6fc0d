"""Saving a game of MinAtar: its attributes are numbers, lists and small boards, and it draws from one old NumPy generator."""

from typing import Any, Final

import numpy as np
import torch

from plasticity.envs.simulation.generator_state import restore_old_generator, state_of_old_generator

_FIXED: Final = frozenset({"channels", "action_map", "ramping", "random"})  # what the game is, not its state


def game_state(game: Any, generator: np.random.RandomState) -> dict[str, Any]:
    """Returns the state of a game as plain numbers, lists and tensors.

    Args:
        game: An ``Env`` of a module of ``minatar.environments``.
        generator: The generator that it draws from.
    """
    attributes = {name: _plain(value) for name, value in vars(game).items() if name not in _FIXED}
    return {
        "game": type(game).__module__.rpartition(".")[2],
        "attributes": attributes,
        "game_generator": state_of_old_generator(generator),
    }


def restore_game(game: Any, generator: np.random.RandomState, state: dict[str, Any]) -> None:
    """Restores ``game_state``.

    Args:
        game: Changed.
        generator: Changed.
        state: Of the same game.

    Raises:
        ValueError: The state is of another game.
    """
    name = type(game).__module__.rpartition(".")[2]
    if state["game"] != name:
        raise ValueError(f"saved state is of the game {state['game']}, this one is {name}")
    for attribute, value in state["attributes"].items():
        setattr(game, attribute, _restored(value))
    restore_old_generator(generator, state["game_generator"])


def _plain(value: Any) -> Any:
    """Returns a copy of a value that a checkpoint can hold without arbitrary code."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a game of MinAtar holds {type(value).__name__}, which cannot be saved")


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(each) for each in value]
    return value.numpy().copy() if isinstance(value, torch.Tensor) else value
