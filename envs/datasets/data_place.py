"""Where the data of a stream are kept: on the learner's device if they fit, so that no step waits for a copy."""

import sys
from typing import Final

import torch

PLACES: Final = ("auto", "device", "cpu")
_COPIES: Final = 6  # of a data set: itself, two tasks made of it, an epoch of one in order, and the same for a fresh learner


def place_of_data(wanted: str, device: torch.device, size_bytes: int) -> torch.device:
    """Returns where a data set is kept; prints a line to standard error if it is too large for the device.

    Args:
        wanted: ``device``, ``cpu``, or ``auto``, the device unless six times the data are more than its free memory.
        device: the learner's.
        size_bytes: of the data set.
    """
    if wanted == "cpu" or device.type == "cpu":
        return torch.device("cpu")
    if wanted == "auto" and _COPIES * size_bytes > (free := torch.cuda.mem_get_info(device)[0]):
        print(
            f"note: {_COPIES} x {size_bytes / 1e9:.1f} GB of data are more than the {free / 1e9:.1f} GB free on {device}; "
            "they stay on the cpu (env.keep_on=device insists)",
            file=sys.stderr,
        )
        return torch.device("cpu")
    return device
