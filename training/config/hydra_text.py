"""What Hydra prints about itself and the config: ``--cfg``, ``--info``, ``--hydra-help``, ``--version``."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra

from plasticity.training.config.command_line import CONFIG, Composer


def hydra_text(flags: Mapping[str, str], words: Sequence[str], composer: Composer) -> str:
    """Returns what Hydra prints.

    Args:
        flags: The flags of the command line, by their long names.
        words: Checked words of a run.
        composer: Where the YAML files are.

    Raises:
        ValueError: If a flag belongs to another that is not there.
    """
    if "--version" in flags:
        return f"Hydra {hydra.__version__}"
    for flag in ("--resolve", "--package"):
        if flag in flags and "--cfg" not in flags:
            raise ValueError(f"{flag} goes with --cfg; write --cfg job {flag}")
    overrides = [*words, *composer.hydra_words]
    with composer.hydra(), redirect_stdout(StringIO()) as text, _logging_as_before():
        it = GlobalHydra.instance().hydra
        assert it is not None
        if "--cfg" in flags:
            it.show_cfg(CONFIG, overrides, flags["--cfg"], flags.get("--package"), "--resolve" in flags)
        elif "--info" in flags:
            it.show_info(flags["--info"], CONFIG, overrides)
        else:
            parser = get_args_parser()
            it.hydra_help(CONFIG, parser, parser.parse_args(overrides))
    return text.getvalue().rstrip("\n")


@contextmanager
def _logging_as_before() -> Iterator[None]:
    """Undoes after the block what ``--info`` sets up: a log of every detail, which the rest of the process does not need."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
