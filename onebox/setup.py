"""Set-up: `python3 -m onebox.setup [--engine auto|vllm|sim] [--dev]` makes .venv and fills it.

It needs a Python and nothing else. What is installed is what requirements/ locks, to the hash;
the second run sees that nothing changed and takes a fraction of a second. Which engine the
workers start with is decided here and remembered in the stamp: vLLM for CUDA where an NVIDIA GPU
answers, else vLLM for CPU, else, where no build of vLLM exists for this machine, the simulated one.

What a person can mend (no network, no space, a missing venv module) ends in one line that says how;
only what cannot be had here makes set-up settle for the simulated engine, and it says why.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from onebox import interpreter, machine, stamp
from onebox.installer import Installer, InstallError, count
from onebox.interpreter import SetupError
from onebox.machine import CPU, CUDA, Build
from onebox.stamp import Stamp
from onebox.terminal import Terminal

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
IN_VENV = str(VENV / "bin" / "python")
LOG = ROOT / ".slalom" / "logs" / "setup.log"
LOCKS = ROOT / "requirements"
TORCH = LOCKS / "torch-cpu.txt"
GB = 1e9

FILES = {  # what each part is installed from
    "core": (LOCKS / "core.txt",),
    "dev": (LOCKS / "dev.txt",),
    "project": (ROOT / "pyproject.toml",),
    CPU.name: (LOCKS / "vllm-cpu.txt", TORCH),
    CUDA.name: (LOCKS / "vllm-cuda.txt",),
}


def main() -> int:
    """Set up, and say what became of it."""
    arguments = _arguments()
    terminal = Terminal()
    try:
        python = interpreter.find()
        with only_one(terminal):
            state = SetUp(python, terminal).run(arguments.engine, with_dev=arguments.dev)
    except (SetupError, OSError) as error:
        terminal.clear()
        log = f"\nLog: {LOG.relative_to(ROOT)}" if isinstance(error, InstallError) else ""
        print(f"Set-up stopped. {error}{log}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        terminal.clear()
        print("Set-up interrupted; run it again to go on.", file=sys.stderr)
        return 130
    terminal.say(outcome(arguments.engine, state))
    return 0


class SetUp:
    """One run of set-up on this tree."""

    def __init__(self, python: str, terminal: Terminal) -> None:
        self._python = python
        self._terminal = terminal
        self._installer = Installer(VENV, LOG, terminal)
        self._stamp = stamp.load(VENV)
        self._wanted = {part: stamp.digest(files) for part, files in FILES.items()}
        self._has_begun = False

    def run(self, ask: str, *, with_dev: bool) -> Stamp:
        """Install what is missing and settle the engine; return the state reached."""
        if not self._stamp.parts or not interpreter.is_usable(VENV):
            self._start_anew()
        self._install("core", "core packages")
        if with_dev:
            self._install("dev", "development tools")
        self._install("project", "Slalom itself")
        engine = settled_engine(ask, self._stamp, self._wanted, machine.fingerprint())
        self._stamp.engine = engine or self._install_engine(ask)
        self._stamp.save()
        return self._stamp

    def _start_anew(self) -> None:
        """Make an empty environment."""
        self._begin(self._python)
        interpreter.make_venv(self._python, VENV)
        self._stamp = Stamp(str(VENV.resolve()))
        self._stamp.save()

    def _begin(self, python: str = IN_VENV) -> None:
        """Before the first change, say where it happens and start a new log."""
        if not self._has_begun:
            self._has_begun = True
            LOG.write_text("")
            version = interpreter.version_of(python) or ()
            where = f"{VENV.relative_to(ROOT)}, log in {LOG.relative_to(ROOT)}"
            self._terminal.say(f"Setting up on Python {'.'.join(map(str, version))} in {where}")

    def _install(self, part: str, title: str) -> None:
        """Install one part unless it is up to date."""
        if self._stamp.has(part, self._wanted[part]):
            return
        self._begin()
        if part == "project":
            self._installer.pip(title, ["--no-build-isolation", "--editable", str(ROOT)])
        else:
            lock = FILES[part][0]
            locked = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(lock)]
            self._installer.pip(title, locked, total=count(lock))
        self._stamp.parts[part] = self._wanted[part]
        self._stamp.save()

    def _install_engine(self, ask: str) -> str:
        """Install the first build of vLLM that can be had; return the engine's name."""
        choice = machine.choose(machine.probe())
        reasons = list(choice.reasons)
        self._stamp.choice_made_on = machine.fingerprint()
        for build in choice.builds:
            try:
                self._install_build(build)
            except InstallError as error:
                if not error.is_unavailable:
                    raise
                reasons.append(str(error))
            else:
                self._stamp.why_sim = ""
                for reason in reasons:
                    self._terminal.say(f"  passed over: {reason}")
                return "vllm"
        if ask == "vllm":
            raise SetupError(f"vLLM cannot be installed here: {'; '.join(reasons)}")
        self._stamp.why_sim = "; ".join(reasons)
        return "sim"

    def _install_build(self, build: Build) -> None:
        """Install one build of vLLM, in an environment that holds no other one."""
        if self._stamp.has(build.name, self._wanted[build.name]):
            return
        check_disk(shutil.disk_usage(ROOT).free, build)
        other = CPU if build is CUDA else CUDA
        if other.name in self._stamp.parts:
            venv = VENV.relative_to(ROOT)
            raise SetupError(f"{venv} holds {other.title}: remove {venv} to install {build.title}.")
        if build is CPU:
            self._install_torch()
        self._install(build.name, build.title)

    def _install_torch(self) -> None:
        """Install PyTorch for CPU from where pip looks, else from PyTorch's own index."""
        self._begin()
        title = "PyTorch for CPU"
        torch = ["--requirement", str(TORCH)]
        try:
            self._installer.pip(title, torch)
        except InstallError as error:
            if not error.is_unavailable:
                raise
            self._installer.pip("uv", ["--require-hashes", "--requirement", str(LOCKS / "uv.txt")])
            self._install_torch_with_uv(title, torch)

    def _install_torch_with_uv(self, title: str, torch: Sequence[str]) -> None:
        """Let uv fetch PyTorch for CPU: it knows the index that PyTorch's builds live on."""
        uv = ["uv", "pip", "install", "--python", IN_VENV, "--no-deps"]
        try:
            self._installer.run(title, [*uv, "--torch-backend", "cpu", *torch])
        except InstallError as error:
            wanted = TORCH.read_text().split()[-1]
            raise InstallError(
                f"no {wanted} for this Python on pip's index, nor from PyTorch's own",
                is_unavailable=True,
            ) from error


def settled_engine(ask: str, state: Stamp, wanted: dict[str, str], fingerprint: str) -> str | None:
    """Return the engine where nothing needs to be installed for it, None where vLLM does."""
    if ask == "sim":
        return "sim"
    if state.choice_made_on != fingerprint:
        return None
    if any(state.has(build.name, wanted[build.name]) for build in (CUDA, CPU)):
        return "vllm"
    return "sim" if ask == "auto" and state.why_sim else None


def check_disk(free_bytes: float, build: Build) -> None:
    """Raise SetupError where a build of vLLM would fill the disk."""
    if free_bytes < build.needs_gb * GB:
        raise SetupError(
            f"{build.title} needs about {build.needs_gb:.0f} GB of disk while it is installed, and"
            f" {free_bytes / GB:.1f} GB are free here. Free some, or take the simulated engine:"
            " ENGINE=sim make run"
        )


def outcome(ask: str, state: Stamp) -> str:
    """Say which engine the workers will start with, and why."""
    if state.engine == "vllm":
        return f"Engine: {CUDA.title if CUDA.name in state.parts else CPU.title}."
    if ask == "sim":
        return "Engine: simulated, as asked; no model runs."
    again = "`ENGINE=vllm make setup` tries again."
    return f"Engine: simulated, because vLLM cannot be had: {state.why_sim}. {again}"


@contextlib.contextmanager
def only_one(terminal: Terminal) -> Iterator[None]:
    """Wait until no other set-up works on this tree."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with (LOG.parent / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            terminal.say("Another set-up is at work on this tree; waiting for it to end.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m onebox.setup", description="Set Slalom up.")
    parser.add_argument(
        "--engine",
        choices=["auto", "vllm", "sim"],
        default="auto",
        help="the inference engine to install; auto: vLLM where it can be had (default)",
    )
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
