"""The supervisor with real processes: actors that report what happens to them and do as told.

Each actor is connected to the test by a socket: a signal that it gets arrives there as a line, and
its end as the end of the stream. So nothing here waits for time to pass.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
A_LONG_TIME_S = 3600.0
DEAD_MAN_S = 60.0  # only a hanging test gets here

ACTOR = """
import os, signal, socket, subprocess, sys

name, address = sys.argv[1:]
link = socket.socket(socket.AF_UNIX)
link.connect(address)
signal.signal(signal.SIGTERM, lambda *_: link.sendall(b"TERM\\n"))
link.sendall(f"{name} {os.getpid()}\\n".encode())
for line in link.makefile():
    word, argument = line.split()
    if word == "print":
        print(argument, flush=True)
    elif word == "exit":
        os._exit(int(argument))
    else:
        child = [sys.executable, __file__, argument, address]
        subprocess.Popen(child, start_new_session=word == "spawn-apart")
"""

DRIVER = """
import json, os, sys
from pathlib import Path
from onebox import process
from onebox.supervisor import Supervisor
from onebox.terminal import Terminal

process.FIRST_DELAY_S = 0.0
services = [process.Service(**service) for service in json.loads(sys.argv[2])]
logs, terminal = Path(sys.argv[1]), Terminal()
sys.exit(Supervisor(services, logs=logs, environment=os.environ, terminal=terminal).run())
"""


class Actor:
    """The test's end of one actor."""

    def __init__(self, link: socket.socket) -> None:
        link.settimeout(DEAD_MAN_S)
        self._link = link
        self._lines = link.makefile()
        self.name, pid = self.hears().split()
        self.pid = int(pid)

    def hears(self) -> str:
        """Return the next signal the actor gets; "" once it is gone."""
        try:
            return self._lines.readline().rstrip("\n")
        except ConnectionResetError:
            return ""

    def has_heard_nothing(self) -> bool:
        """Tell whether the actor lives on without a signal so far."""
        return not select.select([self._link], [], [], 0)[0]

    def do(self, command: str) -> None:
        """Tell the actor to do something."""
        self._link.sendall(f"{command}\n".encode())

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._link.close()


class Stage:
    """A supervisor and the actors that it starts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "actor.py"
        self._script.write_text(ACTOR)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(folder / "door"))
        self._door.listen()
        self._door.settimeout(DEAD_MAN_S)
        self._actors: list[Actor] = []
        self.supervisor: subprocess.Popen[str] | None = None

    def service(self, name: str, **options: object) -> dict[str, object]:
        """Describe a service that runs an actor."""
        command = f"{sys.executable} {self._script} {name} {self._folder / 'door'}"
        return {"name": name, "command": command, "drain_s": A_LONG_TIME_S, **options}

    def open(self, *services: dict[str, object]) -> None:
        """Start a supervisor with these services."""
        self.supervisor = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self._folder / "logs"), json.dumps(services)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    def enter(self) -> Actor:
        """Return the next actor that comes up."""
        link, _ = self._door.accept()
        actor = Actor(link)
        self._actors.append(actor)
        return actor

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        assert self.supervisor is not None
        self.supervisor.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the supervisor's end; return its exit code and what it printed."""
        assert self.supervisor is not None
        output, _ = self.supervisor.communicate(timeout=DEAD_MAN_S)
        return self.supervisor.returncode, output

    def close(self) -> None:
        """Leave no process and no socket."""
        if self.supervisor is not None:
            self.supervisor.kill()
            self.supervisor.communicate()
        for actor in self._actors:
            actor.close()
        self._door.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    stage.close()


def test_a_process_that_crashes_is_started_again(stage):
    stage.open(stage.service("worker"))
    first = stage.enter()

    os.kill(first.pid, signal.SIGKILL)
    second = stage.enter()

    assert first.hears() == ""
    assert second.pid != first.pid
    stage.signal(signal.SIGTERM)
    assert second.hears() == "TERM"
    second.do("exit 0")
    code, output = stage.end()
    assert code == 0
    assert "worker was killed by SIGKILL; it is started again" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_waits_for_a_process_that_drains(stage, number):
    stage.open(stage.service("worker"), stage.service("web"))
    worker, web = sorted([stage.enter(), stage.enter()], key=lambda actor: actor.name)[::-1]

    stage.signal(number)

    assert worker.hears() == web.hears() == "TERM"
    web.do("exit 0")
    assert web.hears() == ""
    assert worker.has_heard_nothing()
    worker.do("exit 0")
    assert stage.end()[0] == 0


def test_a_process_that_ignores_sigterm_is_killed_after_its_drain_time(stage):
    stage.open(stage.service("deaf", drain_s=0.05))
    deaf = stage.enter()

    stage.signal(signal.SIGTERM)

    assert [deaf.hears(), deaf.hears()] == ["TERM", ""]
    code, output = stage.end()
    assert code == 0
    assert "deaf did not end within 0 s and was killed" in output


def test_a_second_ctrl_c_does_not_wait(stage):
    stage.open(stage.service("worker"))
    worker = stage.enter()
    stage.signal(signal.SIGINT)
    assert worker.hears() == "TERM"

    stage.signal(signal.SIGINT)

    assert worker.hears() == ""
    assert stage.end()[0] == 0


def test_what_a_crashed_process_leaves_in_its_group_is_gone_before_it_starts_again(stage):
    stage.open(stage.service("worker", drain_s=0.05))
    worker = stage.enter()
    worker.do("spawn engine")
    engine = stage.enter()

    os.kill(worker.pid, signal.SIGKILL)

    assert [engine.hears(), engine.hears()] == ["TERM", ""]
    assert stage.enter().name == "worker"


def test_grandchildren_in_sessions_of_their_own_end_with_the_run(stage):
    stage.open(stage.service("autoscaler"))
    autoscaler = stage.enter()
    autoscaler.do("spawn-apart worker")
    worker = stage.enter()
    stage.signal(signal.SIGTERM)
    assert autoscaler.hears() == "TERM"
    assert worker.has_heard_nothing()  # its parent's to end, while it has one

    autoscaler.do("exit 0")

    assert worker.hears() == "TERM"
    worker.do("exit 0")
    assert stage.end()[0] == 0


def test_an_orphan_gets_its_sigterm_at_once(stage):
    stage.open(stage.service("autoscaler"))
    autoscaler = stage.enter()
    autoscaler.do("spawn-apart worker")
    worker = stage.enter()
    autoscaler.do("exit 1")
    autoscaler = stage.enter()

    stage.signal(signal.SIGTERM)

    assert worker.hears() == autoscaler.hears() == "TERM"
    autoscaler.do("exit 0")
    worker.do("exit 0")
    assert stage.end()[0] == 0


def test_a_keeper_starts_first_and_stops_last(stage):
    stage.open(stage.service("worker"), stage.service("redis", is_keeper=True))
    redis, worker = stage.enter(), stage.enter()
    assert (redis.name, worker.name) == ("redis", "worker")

    stage.signal(signal.SIGTERM)

    assert worker.hears() == "TERM"
    assert redis.has_heard_nothing()
    worker.do("exit 0")
    assert redis.hears() == "TERM"
    assert worker.hears() == ""
    redis.do("exit 0")
    assert stage.end()[0] == 0


def test_a_process_that_never_gets_up_ends_the_run_with_its_last_words(stage):
    stage.open(stage.service("web"), stage.service("redis", is_keeper=True))
    redis = stage.enter()

    for _ in range(5):
        web = stage.enter()
        web.do("print no-such-module")
        web.do("exit 3")

    assert redis.hears() == "TERM"
    redis.do("exit 0")
    code, output = stage.end()
    assert code == 1
    assert "web   | no-such-module" in output
    assert "web does not start. Log: " in output


def test_processes_end_when_the_supervisor_is_killed(stage):
    stage.open(stage.service("worker"))
    worker = stage.enter()

    stage.signal(signal.SIGKILL)

    assert worker.hears() == "TERM"
    worker.do("exit 0")
    assert worker.hears() == ""


def test_every_process_has_its_own_log_and_the_run_before_is_kept(stage, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "web.log").write_text("of the run before\n")
    stage.open(stage.service("web"))
    web = stage.enter()

    web.do("print of-this-run")
    web.do("exit 0")
    stage.enter()

    assert (logs / "web.log").read_text() == "of-this-run\n"
    assert (logs / "web.1.log").read_text() == "of the run before\n"
