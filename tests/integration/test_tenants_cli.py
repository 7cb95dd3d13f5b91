"""Tenants at a terminal, as an operator types it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from config.settings import ROOT
from scheduler import api_keys, keys
from scheduler.limits import Charge, admit
from scheduler.tenants import UNLIMITED
from scheduler.tenants_cli import main
from tests.integration.customers import customer


class Terminal:
    """Runs `python -m scheduler.tenants`."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
        self.folder = folder

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scheduler.tenants", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True
        )

    def done(self, *words: str) -> str:
        """Return what a command that succeeds says."""
        result = self.run(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.done(*words, "--json"))

    def fault(self, *words: str, status: int = 1) -> str:
        """Return the error of a command that fails, without a traceback."""
        result = self.run(*words)
        assert (result.returncode, result.stdout) == (status, "")
        assert "Traceback" not in result.stderr
        return result.stderr

    def file(self, text: str) -> str:
        path = self.folder / "tenants.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)


@pytest.fixture
def settings_of_a_process(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the settings of this process name the test's Redis."""
    monkeypatch.setenv("REDIS_URL", redis_url)


@pytest.fixture
def terminal(redis_url: str, tmp_path: Path) -> Terminal:
    return Terminal(redis_url, tmp_path)


def test_a_tenant_is_created_changed_shown_and_deleted(
    terminal: Terminal, connection: Redis
) -> None:
    limit = ["--limit", "standard.requests_per_min=5", "--limit", "batch.max_open_jobs=9"]
    created = terminal.json("create", "acme", "--ceiling", "standard", "--model", "adder", *limit)
    admit(connection, Charge("acme", "batch", "job", 12), UNLIMITED)
    changed = terminal.json(
        "set", "acme", "--weight", "2.5", "--model", "none", "--operator",
        "--limit", "standard.requests_per_min=none", "--limit", "batch.tokens_per_min=100",
    )  # fmt: skip
    shown = terminal.json("show", "acme")
    listed = terminal.done("list")

    assert created["limits"] == {
        "standard": {"requests_per_min": 5},
        "batch": {"max_open_jobs": 9},
    }
    assert (created["models"], created["ceiling"]) == (["adder"], "standard")
    assert changed == {
        "name": "acme",
        "weight": 2.5,
        "default_tier": None,
        "ceiling": "standard",
        "models": None,
        "limits": {"batch": {"tokens_per_min": 100, "max_open_jobs": 9}},
        "operator": True,
    }
    assert {name: shown[name] for name in changed} == changed
    assert shown["use"]["batch"]["open_tokens"] == 12
    assert listed.startswith("acme  weight 2.5  standard by default, standard at most  operator")
    assert terminal.json("delete", "acme") == {"name": "acme", "deleted": True}
    assert terminal.done("list") == ""


def test_a_key_is_shown_once_and_revoked_by_what_is_visible(
    terminal: Terminal, connection: Redis
) -> None:
    terminal.done("create", "acme")

    key = terminal.done("key", "create", "acme").strip()
    other = terminal.json("key", "create", "acme", "--expires-in", "90d")["key"]
    listed = terminal.done("key", "list", "acme")

    assert api_keys.identify(connection, key).tenant == "acme"
    assert key not in listed
    assert other not in listed
    [first, second] = listed.splitlines()
    assert first.startswith(api_keys.visible(key))
    assert "expires never" in first
    assert second.startswith(api_keys.visible(other))
    assert "expires 20" in second
    assert "revoked" in terminal.done("key", "revoke", "acme", api_keys.visible(key))
    assert api_keys.identify(connection, key).tenant is None
    assert api_keys.identify(connection, other).tenant == "acme"


def test_a_file_is_applied_as_a_dry_run_says(terminal: Terminal, connection: Redis) -> None:
    terminal.done("create", "acme", "--weight", "3")
    terminal.done("create", "other")
    path = terminal.file("tenants:\n  acme: {ceiling: batch}\n  new: {operator: true}\n")

    told = terminal.done("apply", path, "--dry-run")
    before = connection.hlen(keys.TENANTS)
    applied = terminal.done("apply", path)

    assert before == 2
    assert told == applied
    assert told.splitlines()[0].startswith('~ acme  weight 3.0 -> 1.0; ceiling null -> "batch"')
    assert told.splitlines()[1].startswith("+ new")
    assert terminal.json("show", "new")["operator"] is True
    assert terminal.done("apply", path) == ""


def test_a_file_with_a_fault_changes_nothing(terminal: Terminal, connection: Redis) -> None:
    path = terminal.file("tenants:\n  good: {}\n  bad:\n    weight: much\n")

    said = terminal.fault("apply", path)

    assert f"{path}:4: tenants.bad.weight" in said
    assert not connection.exists(keys.TENANTS)


def test_a_damaged_record_is_shown_and_mended(terminal: Terminal, connection: Redis) -> None:
    customer(connection, "acme")
    connection.hset(keys.TENANTS, "acme", '{"name": "acme", "weight": 0}')

    assert "record of tenant acme is damaged: weight" in terminal.done("list")
    assert "damaged" in terminal.fault("set", "acme", "--weight", "2")
    terminal.done("apply", terminal.file("tenants:\n  acme: {weight: 2}\n"))
    assert terminal.json("show", "acme")["weight"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "nobody"], "no tenant nobody"),
        (["set", "nobody", "--weight", "2"], "no tenant nobody"),
        (["delete", "nobody"], "no tenant nobody"),
        (["key", "create", "nobody"], "no tenant nobody"),
        (["key", "list", "nobody"], "no tenant nobody"),
        (["key", "revoke", "acme", "sk-slalom-x"], "no key sk-slalom-x"),
        (["create", "acme"], "already"),
        (["create", "Acme"], "name"),
        (["create", "default"], "another name"),
        (["set", "acme", "--weight", "0"], "weight"),
        (["set", "acme", "--ceiling", "gold"], "no tier 'gold'"),
        (["set", "acme", "--limit", "gold.max_open_jobs=1"], "no tier 'gold'"),
        (["apply", "/nowhere.yaml"], "cannot be read"),
    ],
)
@pytest.mark.usefixtures("settings_of_a_process")
def test_what_cannot_be_done_says_why(
    connection: Redis, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    customer(connection, "acme")

    assert main(words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "command"),
        (["set", "acme", "--limit", "batch.speed=1"], "is no limit"),
        (["key", "create", "acme", "--expires-in", "soon"], "is no time"),
        (["key", "create", "acme", "--expires-in", "0d"], "is no time"),
    ],
)
def test_a_wrong_command_has_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)

    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_without_redis_one_line_says_so(tmp_path: Path) -> None:
    said = Terminal("redis://:secret@127.0.0.1:1/0", tmp_path).fault("list")

    assert "127.0.0.1:1" in said
    assert "secret" not in said


def test_there_are_no_more_keys_than_a_tenant_may_have(
    terminal: Terminal, connection: Redis
) -> None:
    customer(connection, "acme")
    for _ in range(api_keys.MOST_KEYS - 1):
        api_keys.create(connection, "acme")

    assert "revoke one" in terminal.fault("key", "create", "acme")
