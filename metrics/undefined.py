"""The value of a measurement that could not be made: NaN that carries its reason."""


class Undefined(float):
    """NaN with a reason, for a metric that cannot be computed.

    It is a ``float``, so writers and arithmetic treat it as any other NaN: ``str(value)`` is ``"nan"``, arithmetic gives a
    plain NaN, and it equals nothing, itself included. ``repr(value)`` shows the reason. Copying and pickling keep the reason.

    Attributes:
        reason: Why there is no value, as a short phrase without a full stop, e.g. ``"all features are zero"``.
    """

    reason: str

    def __new__(cls, reason: str) -> "Undefined":
        """Returns a NaN that remembers ``reason``."""
        value = super().__new__(cls, "nan")
        value.reason = reason
        return value

    def __repr__(self) -> str:
        return f"Undefined({self.reason!r})"

    def __str__(self) -> str:
        # float has no __str__ of its own: without this a CSV cell would hold the repr, which no reader parses as a number.
        return "nan"
