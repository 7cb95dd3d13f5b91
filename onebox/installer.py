"""Run pip quietly: all that it says goes to the log, and a person sees one line that moves.

A failed installation is explained in one sentence with what to do (`explain`).
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from onebox.interpreter import SetupError
from onebox.terminal import Terminal

TICK_S = 0.25

NETWORK = (
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Temporary failure in name resolution"
    r"|Network is unreachable|ProxyError|SSLError|Connection (refused|reset)|dns error"
    r"|error sending request|Failed to fetch"
)
CAUSES = (  # the first that matches what the installer said
    (
        r"No space left on device",
        "The disk is full. Free some space and run it again.",
    ),
    (
        NETWORK,
        "The package index does not answer. Check the network, and `pip config list` for a proxy"
        " or a mirror; then run it again: what is installed stays.",
    ),
    (
        r"DO NOT MATCH THE HASHES|Hash mismatch",
        "A package is not the one that was locked, so it was not installed. If you use a mirror of"
        " the package index, check it.",
    ),
    (
        r"No matching distribution found for (\S+)|no wheels? with a matching|no version of (\S+)",
        "The package index has no {0} for this Python and machine.",
    ),
    (
        r"Permission denied",
        "Files here belong to another user. Remove .venv, or run it as that user.",
    ),
)


class InstallError(SetupError):
    """An installer failed; `is_unavailable` where the package does not exist for this machine."""

    def __init__(self, message: str, *, is_unavailable: bool = False) -> None:
        super().__init__(message)
        self.is_unavailable = is_unavailable


def explain(output: str) -> InstallError:
    """Turn what an installer said into what a person can do."""
    for pattern, advice in CAUSES:
        match = re.search(pattern, output)
        if match:
            what = next((group for group in match.groups() if group), "such package")
            is_unavailable = advice.startswith("The package index has no")
            return InstallError(advice.format(what), is_unavailable=is_unavailable)
    return InstallError("The installation failed.")


class Progress:
    """Reads what the installer says and knows what it is doing."""

    def __init__(self, total: int, site_packages: Sequence[Path]) -> None:
        self._total = total
        self._site_packages = site_packages
        self._found_before = self._found()
        self._fetched = 0
        self._names: list[str] = []
        self._doing = "asking the package index"

    def hear(self, line: str) -> None:
        """Take in one line of the installer."""
        words = line.split()
        if line.startswith("Collecting "):
            self._fetched += 1
            number = of(self._fetched, self._total)
            self._doing = f"fetching {words[1].partition('=')[0]}{number}"
        elif line.startswith("Installing collected packages:"):
            self._names = [word.strip(",") for word in words[3:]]

    def doing(self) -> str:
        """Say what the installer is doing now."""
        if not self._names:
            return self._doing
        done = min(self._found() - self._found_before, len(self._names) - 1)
        return f"installing {self._names[done]}{of(done + 1, len(self._names))}"

    def _found(self) -> int:
        return sum(1 for folder in self._site_packages for _ in folder.glob("*.dist-info"))


class Installer:
    """Runs installers in one environment, for one terminal, with one log."""

    def __init__(self, venv: Path, log: Path, terminal: Terminal) -> None:
        self._venv = venv
        self._log = log
        self._terminal = terminal

    def pip(self, title: str, arguments: Sequence[str], *, total: int = 1) -> None:
        """Run `pip install`; InstallError if it fails."""
        options = ["--no-deps", "--progress-bar", "off", "--disable-pip-version-check"]
        self.run(title, ["pip", "install", *options, *arguments], total=total)

    def run(self, title: str, module: Sequence[str], *, total: int = 1) -> None:
        """Run `python -m module…` in the environment; InstallError if it fails."""
        command = [str(self._venv / "bin" / "python"), "-m", *module]
        started = time.monotonic()
        progress = Progress(total, list(self._venv.glob("lib/python*/site-packages")))
        heard: list[str] = []
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=_environment(),
        )
        reader = threading.Thread(target=self._listen, args=(process, command, heard, progress))
        reader.start()
        try:
            while reader.is_alive():
                took = time.monotonic() - started
                self._terminal.live(f"  {title}: {progress.doing()}, {took:.0f} s")
                reader.join(TICK_S)
        except BaseException:
            process.kill()
            raise
        finally:
            reader.join()
            self._terminal.clear()
        if process.wait():
            raise explain("\n".join(heard))
        self._terminal.say(f"  {title} ({time.monotonic() - started:.0f} s)")

    def _listen(
        self,
        process: subprocess.Popen[str],
        command: Sequence[str],
        heard: list[str],
        progress: Progress,
    ) -> None:
        """Copy the installer's output into the log and tell the progress line."""
        assert process.stdout is not None
        self._note(f"$ {' '.join(command)}\n")
        for line in process.stdout:
            self._note(line)
            heard.append(line.rstrip())
            progress.hear(line)

    def _note(self, text: str) -> None:
        """Add to the log; a full disk is reported by the installer's own failure."""
        with contextlib.suppress(OSError), self._log.open("a") as log:
            log.write(text)


def of(number: int, total: int) -> str:
    """Return ` (3 of 7)`, and nothing where there is but one."""
    return f" ({number} of {total})" if 1 < total >= number else ""


def count(lock: Path) -> int:
    """Return the number of packages in a lock."""
    return sum(1 for line in lock.read_text().splitlines() if "==" in line and line[0] != "#")


def _environment() -> dict[str, str]:
    """Leave out what would make pip install somewhere else or see other packages."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1"}
