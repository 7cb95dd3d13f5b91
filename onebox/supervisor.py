"""The supervisor: starts what the Procfile names, keeps it running, and ends it in order.

    start   keepers (Redis) first; once they answer, the others
    crash   restarted after 1 s, 2 s, … 30 s; five failures in a row before the system was ever
            ready end the run with the log's last lines
    stop    Ctrl-C, SIGTERM or SIGHUP: SIGTERM to all but the keepers, each with its own drain time,
            then SIGKILL to its group; strays; last the keepers. A second Ctrl-C does not wait.

Nothing outlives it: orphans of any depth come to it (it is their subreaper) and are ended too, and
if it is itself killed the kernel sends SIGTERM to what it started. One thread does all of it, woken
by signals and otherwise five times a second.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from onebox.leash import PR_SET_CHILD_SUBREAPER, prctl
from onebox.logfile import is_alarm
from onebox.process import Process, Service, describe
from onebox.terminal import Terminal

TICK_S = 0.2
MAX_FAILURES = 5
STRAY_S = 10.0
STOPPING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class Supervisor:
    """Runs services until it is told to stop."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        logs: Path,
        environment: Mapping[str, str],
        terminal: Terminal,
        is_verbose: bool = False,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._processes = [Process(service, logs) for service in services]
        self._keepers = [p for p in self._processes if p.service.is_keeper]
        self._others = [p for p in self._processes if not p.service.is_keeper]
        self._environment = environment
        self._terminal = terminal
        self._is_verbose = is_verbose
        self._has_started = False  # all of it, not only the keepers
        self._stop_asked = ""  # by another thread: what to say
        self._stopping_since: float | None = None
        self._strays: dict[int, float] = {}  # pid -> when to kill it
        self._exit_code = 0
        self.is_ready = False  # set by whoever watches; from then on no crash ends the run

    def run(self, beside: Callable[[], None] | None = None) -> int:
        """Supervise until stopped, with `beside` in a thread; return 0 if it was asked to stop."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING | {signal.SIGCHLD})
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._plan_start(self._keepers)
        if beside is not None:
            threading.Thread(target=beside, daemon=True).start()
        try:
            while not self._is_over():
                self._step(time.monotonic())
                self._wait()
        finally:
            self._kill_all()
        self._terminal.clear()
        self._terminal.say("Stopped." if not self._exit_code else "Stopped after a failure.")
        return self._exit_code

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stopping_since is not None

    def give_up(self, message: str) -> None:
        """End the run as failed; any thread may call it."""
        self._stop_asked = message

    def _step(self, now: float) -> None:
        """Do all that is due."""
        self._reap(now)
        if not self._has_started and all(p.is_running and p.service.is_up() for p in self._keepers):
            self._has_started = True
            self._plan_start(self._others)
        for process in self._processes:
            if process.start_at is not None and now >= process.start_at and process.is_gone():
                process.start(self._environment, now)
            if process.check(now):
                drain_s = process.service.drain_s
                self._say(process, f"did not end within {drain_s:.0f} s and was killed")
            self._report(process)
        if self._stop_asked and self._stopping_since is None:
            self._fail(self._stop_asked, now)
        if self._stopping_since is not None:
            self._stop(now)

    def _wait(self) -> None:
        """Wait for a signal or the next tick; a signal to stop begins or hastens the end."""
        info = signal.sigtimedwait(STOPPING | {signal.SIGCHLD}, TICK_S)
        if info is None or info.si_signo not in STOPPING:
            return
        if self._stopping_since is None:
            self._begin_stop(time.monotonic())
        else:
            self._hasten()

    def _plan_start(self, processes: Sequence[Process]) -> None:
        if self._stopping_since is None:
            for process in processes:
                process.start_at = time.monotonic()

    def _reap(self, now: float) -> None:
        """Collect every child that ended, our own processes and adopted orphans."""
        own = {process.pid: process for process in self._processes if process.is_running}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in own:
                self._on_end(own[pid], status, now)

    def _on_end(self, process: Process, status: int, now: float) -> None:
        """Report a process that ended unasked; end the run if it never gets up."""
        process.ended(now)
        if self._stopping_since is not None:
            process.start_at = None
            return
        self._report(process)
        if not self._is_verbose:
            self._terminal.say("\n".join(self._prefixed(process, process.log.tail())))
        if process.failures >= MAX_FAILURES and not self.is_ready:
            self._say(process, describe(status))
            self._fail(f"{process.service.name} does not start. Log: {process.log.path}", now)
        else:
            assert process.start_at is not None
            pause = process.start_at - now
            self._say(process, f"{describe(status)}; it is started again in {pause:.0f} s")

    def _fail(self, message: str, now: float) -> None:
        self._terminal.say(message)
        self._exit_code = 1
        self._begin_stop(now)

    def _begin_stop(self, now: float) -> None:
        """Ask all but the keepers to end, strays included."""
        self._stopping_since = now
        longest = max((p.service.drain_s for p in self._others), default=STRAY_S)
        for process in self._others:
            process.drain(now)
        self._end_strays(now, longest, only_orphans=True)

    def _hasten(self) -> None:
        """Kill all but the keepers, which end quickly and may have data to save."""
        self._terminal.say("Killing what is left.")
        for process in self._others:
            process.kill()
        self._strays = dict.fromkeys(self._strays, 0.0)

    def _stop(self, now: float) -> None:
        """Go on with the end: the others, then strays, then the keepers."""
        left = [p for p in self._others if not p.is_gone()]
        if left:
            self._show_left(left, now)
        elif not self._end_strays(now, STRAY_S):
            for process in self._keepers:
                process.drain(now)

    def _show_left(self, left: Sequence[Process], now: float) -> None:
        assert self._stopping_since is not None
        names = ", ".join(process.service.name for process in left)
        longest = max(process.service.drain_s for process in left)
        took = now - self._stopping_since
        hint = "Ctrl-C again kills" if self._terminal.is_tty else "a second signal kills"
        self._terminal.live(f"Stopping: {names} ({took:.0f} s of {longest:.0f} s; {hint})")

    def _end_strays(self, now: float, within_s: float, *, only_orphans: bool = False) -> bool:
        """End descendants that belong to no process of ours; return whether any is left.

        Those that still have a parent are its to end, for a second SIGTERM hurries some programs.
        """
        strays = self._find_strays()
        for stray in strays:
            with contextlib.suppress(psutil.NoSuchProcess):
                if only_orphans and stray.ppid() != os.getpid():
                    continue
                if stray.pid not in self._strays:
                    self._strays[stray.pid] = now + within_s
                    stray.terminate()
                elif now >= self._strays[stray.pid]:
                    stray.kill()
        return bool(strays)

    def _find_strays(self) -> list[psutil.Process]:
        """Return descendants outside the groups of our processes."""
        groups = {process.pid for process in self._processes if process.pid}
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(child.pid) not in groups:
                    found.append(child)
        return found

    def _is_over(self) -> bool:
        """Tell whether a stop was asked for and all is gone."""
        if self._stopping_since is None or not all(p.is_gone() for p in self._processes):
            return False
        return not self._find_strays()

    def _kill_all(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in self._processes:
            process.kill()
        for stray in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                stray.kill()

    def _report(self, process: Process) -> None:
        """Show a process's new lines: all, or the alarming ones."""
        lines = process.log.new_lines()
        shown = lines if self._is_verbose else [line for line in lines if is_alarm(line)]
        if shown:
            self._terminal.say("\n".join(self._prefixed(process, shown)))

    def _say(self, process: Process, text: str) -> None:
        self._terminal.say(f"{process.service.name} {text}.")

    def _prefixed(self, process: Process, lines: Sequence[str]) -> list[str]:
        width = max(len(p.service.name) for p in self._processes)
        name = f"{process.service.name:<{width}} |"
        prefix = self._terminal.paint(name, self._processes.index(process))
        return [f"{prefix} {line}" for line in lines]
