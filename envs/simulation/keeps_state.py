"""What an environment must offer so that a run with it can be continued."""

from typing import Any, Final, Protocol, runtime_checkable

_PROJECT: Final = f"{__name__.partition('.')[0]}."
_EXACT: Final = "exact_resume"


@runtime_checkable
class KeepsState(Protocol):
    """An environment that can be saved; both methods use tensors, numbers, strings and containers of them.

    An environment that cannot save its whole state, such as an emulator, has an attribute ``exact_resume`` that is False: what it
    saves is restored, and its episodes start again. A subclass that inherits the two methods may hold more than they save: it is
    exact only if its class sets ``exact_resume = True``.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns the state that decides how the environment continues."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved state."""
        ...


def resumes_exactly(env: object) -> bool:
    """Returns whether ``env`` is known to save all that decides how it continues, within an episode too."""
    return isinstance(env, KeepsState) and bool(getattr(env, _EXACT, True)) and _declares_its_state(type(env))


def is_project_class(cls: type) -> bool:
    """Returns whether a class is one of this project's environments, and not one that a user derived from it."""
    return cls.__module__.startswith(_PROJECT)


def _declares_its_state(cls: type) -> bool:
    """Returns whether the class itself, or this project, guarantees what ``state_dict`` saves."""
    return is_project_class(cls) or "state_dict" in vars(cls) or _EXACT in vars(cls)
