"""What the processor can do, and which settings make a run slower on it."""

import os

import torch

from plasticity.agents.agent import Agent
from plasticity.training.config.settings import RunSettings

LARGE_NETWORK_PARAMETERS = 1_000_000
_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # of x86 and of Arm


def has_bf16() -> bool:
    """Returns whether the processor has instructions that multiply bf16 numbers, and PyTorch may use them.

    PyTorch has them on x86 with AVX-512 only, which ``ATEN_CPU_CAPABILITY`` can forbid.
    """
    able = torch.cpu.get_capabilities()
    allowed = able["architecture"] != "x86_64" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return allowed and any(able.get(name, False) for name in _BF16)


def parameters_of(agent: Agent) -> int:
    """Returns the number of parameters of all parts together."""
    return sum(p.numel() for part in agent.parts.values() for p in part.network.parameters())


def slower_settings(settings: RunSettings, agent: Agent, device: torch.device) -> list[str]:
    """Returns one line for each setting that is known to make this run slower here than its default does.

    Args:
        settings: Of the run.
        agent: Built.
        device: Of the learner; for an accelerator no line is returned.
    """
    if device.type != "cpu":
        return []
    lines = []
    if settings.precision == "bf16" and not has_bf16():
        lines.append(
            "precision=bf16 is several times slower than fp32 on this processor, which has no bf16 instructions: "
            "choose precision=fp32"
        )
    cores = os.cpu_count() or 1
    threads = 1 if settings.threads == "auto" else int(settings.threads)
    if threads > cores:
        lines.append(f"threads={threads} is slower than threads={cores}: this machine has no more processors")
    elif threads > 1 and parameters_of(agent) < LARGE_NETWORK_PARAMETERS:
        lines.append(
            f"threads={threads} is slower than threads=1 for a network of {parameters_of(agent)} parameters: "
            "its products are too small to be shared"
        )
    return lines
