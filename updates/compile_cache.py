"""Compiled graphs on disk: what one process has compiled, every later one on the machine loads in milliseconds.

A graph is compiled to a shared library whose name is a digest of all that it depends on: the operations with their constants, the
layouts of its arguments, the number of threads, the version of PyTorch, and the processor. The libraries are in
``$PLASTICITY_COMPILED`` or ``~/.cache/plasticity/compiled``; they may be deleted at any time. ``PLASTICITY_COMPILED=off`` keeps
none: each process then compiles for itself, which takes a third of the time of making a library.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.fx import GraphModule

MOST_KEPT: Final = 200  # libraries, of one to two megabytes each; the ones that were not used for longest are deleted
_FORMAT: Final = 2  # of what is kept; another number makes everything be compiled again
_LIBRARY: Final = "graph.so"
_SWITCHES: Final = ("TORCHINDUCTOR_", "AOT_INDUCTOR_", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "CXX")
_OPTIONS: Final = {"aot_inductor.enable_line_tables": False, "aot_inductor.enable_frame_pointer": False}


class CompileClock:
    """Seconds that this process has spent on compiling and on loading what was compiled.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time in the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


CLOCK: Final = CompileClock()


def keeps_compiled() -> bool:
    """Whether libraries are kept: unless ``PLASTICITY_COMPILED=off``."""
    return os.environ.get("PLASTICITY_COMPILED") != "off"


def cache_folder() -> Path:
    """Returns the folder of all libraries: ``$PLASTICITY_COMPILED`` or ``~/.cache/plasticity/compiled``."""
    return Path(os.environ.get("PLASTICITY_COMPILED") or Path.home() / ".cache" / "plasticity" / "compiled").expanduser()


def compiled_graph(graph: GraphModule, arguments: Sequence[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """Returns a graph as a compiled function for arguments of these layouts on the CPU.

    Processes that need the same one at the same time wait for the first of them. Where the folder cannot be written, the library
    is made for this process alone.

    Args:
        graph: Flat: its inputs and outputs are tensors.
        arguments: What it is called with; only their layouts matter.
    """
    library = _library(graph, arguments)
    try:
        return _loaded(library)
    except RuntimeError:  # damaged, by a disk that was full or by hand
        shutil.rmtree(library.parent, ignore_errors=True)
        return _loaded(_library(graph, arguments))


def _loaded(library: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    run: Callable[[list[Tensor]], list[Tensor]] = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run
    return run


def _library(graph: GraphModule, arguments: Sequence[Tensor]) -> Path:
    folder = cache_folder()
    place = folder / _digest(graph, arguments)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{place.name}.lock"):
            if not (place / _LIBRARY).is_file():
                _compile_into(place, graph, arguments)
            os.utime(place)
        _forget_oldest(folder)
        return place / _LIBRARY
    except OSError as error:
        print(f"note: nothing compiled is kept in {folder}: {error.strerror}", file=sys.stderr)
        return _compiled(graph, arguments, tempfile.mkdtemp(prefix="compiled-"))


def _compile_into(place: Path, graph: GraphModule, arguments: Sequence[Tensor]) -> None:
    """Compiles a graph; the folder ``place`` appears with the library complete in it."""
    coming = Path(tempfile.mkdtemp(prefix=".coming-", dir=place.parent))
    try:
        library = _compiled(graph, arguments, str(coming))
        shutil.copyfile(library, coming / _LIBRARY)
        kept, calls = [_LIBRARY], library.with_suffix(".json")
        if calls.is_file():  # operations that the library calls by name, which PyTorch reads from a file of the library's name
            kept.append(Path(_LIBRARY).with_suffix(".json").name)
            shutil.copyfile(calls, coming / kept[-1])
        for other in list(coming.iterdir()):  # sources and the like
            if other.name not in kept:
                shutil.rmtree(other) if other.is_dir() else other.unlink()
        coming.chmod(0o755)
        os.replace(coming, place)
    except BaseException:
        shutil.rmtree(coming, ignore_errors=True)
        raise


def _compiled(graph: GraphModule, arguments: Sequence[Tensor], folder: str) -> Path:
    # The compiler takes longer to import than everything else together, and most commands never compile.
    from torch._inductor import aot_compile

    for node in graph.graph.nodes:
        node.meta.clear()  # the compiler writes its own metadata, and refuses that of the tracer
    options: dict[str, Any] = {**_OPTIONS, "aot_inductor.output_path": folder}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of one part of PyTorch about another
        return Path(str(aot_compile(graph, tuple(arguments), options=options)))


def _digest(graph: GraphModule, arguments: Sequence[Tensor]) -> str:
    layouts = [(tuple(value.shape), value.stride(), str(value.dtype)) for value in arguments]
    switches = sorted((name, value) for name, value in os.environ.items() if name.startswith(_SWITCHES))
    software = (torch.__version__, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), sys.version_info[:2])
    parts = [_FORMAT, graph.code, layouts, switches, software, _processor()]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """Returns what the compiler makes code for: a home directory can be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which is deleted with the library it belongs to."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _forget_oldest(folder: Path) -> None:
    kept = sorted((entry for entry in folder.iterdir() if (entry / _LIBRARY).is_file()), key=lambda entry: entry.stat().st_mtime)
    for old in kept[: max(0, len(kept) - MOST_KEPT)]:
        shutil.rmtree(old, ignore_errors=True)
        (folder / f"{old.name}.lock").unlink(missing_ok=True)
