"""What an environment must offer so that a run can go on with it."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class KeepsState(Protocol):
    """An environment that can be saved; both methods deal in tensors, numbers, strings and containers of them.

    An environment that cannot save all of it, an emulator say, has an attribute ``exact_resume`` that is False: what it does
    save is restored, and its episodes begin anew.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns what decides how the environment goes on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state."""
        ...


def resumes_exactly(env: object) -> bool:
    """Returns whether ``env`` saves all that decides how it goes on, within an episode too."""
    return isinstance(env, KeepsState) and bool(getattr(env, "exact_resume", True))
