"""The Python that Slalom runs on, and its environment `.venv`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SUPPORTED: tuple[tuple[int, ...], ...] = ((3, 11), (3, 12), (3, 13))
VENV_BYTES = 30_000_000  # what an empty environment with its pip takes


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def find(running: tuple[int, ...] = sys.version_info[:2], path: str | None = None) -> str:
    """Return a Python that Slalom runs on: the running one, else the newest on PATH."""
    if running[:2] in SUPPORTED:
        return sys.executable
    for version in reversed(SUPPORTED):
        name = shutil.which("python{}.{}".format(*version), path=path)
        if name and version_of(name) == version:
            return name
    raise SetupError(
        f"Slalom needs Python 3.11, 3.12 or 3.13, and this is {running[0]}.{running[1]}.\n"
        "Install one of them, or name it: PYTHON=/path/to/python3.12 make run"
    )


def version_of(python: str) -> tuple[int, ...] | None:
    """Return the major and minor version of an interpreter, None where it does not run."""
    code = "import json, sys; print(json.dumps(sys.version_info[:2]))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        return tuple(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def is_usable(venv: Path) -> bool:
    """Tell whether an environment's Python runs, fits, and has pip."""
    python = venv / "bin" / "python"
    has_pip = any(venv.glob("lib/python*/site-packages/pip/__main__.py"))
    return has_pip and version_of(str(python)) in SUPPORTED


def make_venv(python: str, venv: Path) -> None:
    """Make the environment anew; SetupError where Python lacks what that takes."""
    command = [python, "-m", "venv", "--clear", str(venv)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode == 0:
        return
    shutil.rmtree(venv, ignore_errors=True)
    raise SetupError(_explain(python, done.stdout.splitlines()))


def _explain(python: str, output: Iterable[str]) -> str:
    """Say what to do about a venv that could not be made."""
    text = "\n".join(output)
    if "ensurepip is not available" in text or "No module named venv" in text:
        version = "{}.{}".format(*(version_of(python) or (3, "")))
        return (
            f"{python} cannot make environments: its venv module is missing.\n"
            f"Debian, Ubuntu: apt install python{version}-venv"
        )
    if "No space left" in text or shutil.disk_usage(Path.cwd()).free < VENV_BYTES:
        return "The disk is full: .venv could not be made. Free some space and run it again."
    return f"{python} could not make .venv:\n{text.strip()}"
