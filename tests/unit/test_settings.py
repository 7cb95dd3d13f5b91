"""Settings come from the environment, and a mistake is named with its fix."""

import subprocess
import sys
from pathlib import Path

import pytest

from config import settings
from config.settings import SettingsError, load


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SLALOM_MAX_INFLIHT", "3", "did you mean SLALOM_MAX_INFLIGHT?"),
        ("SLALOM_ENGINE", "tensorrt", "SLALOM_ENGINE: Input should be 'vllm' or 'sim'"),
        ("PORT", "99999", "PORT: Input should be less than or equal to 65535"),
        ("REDIS_URL", "http://127.0.0.1", "REDIS_URL must begin with redis://"),
        ("SLALOM_DASHBOARD_BIND", "0.0.0.0", "set SLALOM_DASHBOARD_PASSWORD"),
        ("SLALOM_VLLM_ARGS", "--model 'x", "SLALOM_VLLM_ARGS cannot be split"),
        ("SLALOM_LOW_FLOOR", "1.5", "SLALOM_LOW_FLOOR: Input should be less than or equal to 1"),
        ("SLALOM_CORS_ORIGINS", "*", "SLALOM_CORS_ORIGINS: * is no origin"),
        ("SLALOM_CORS_ORIGINS", "https://a.example/", "https://a.example/ is no origin"),
        ("SLALOM_RESERVE_SEATS", "-1", "SLALOM_RESERVE_SEATS: Input should be greater than or eq"),
    ],
)
def test_a_wrong_variable_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as error:
        load()

    assert said in str(error.value)


def test_what_only_the_command_line_reads_disturbs_no_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in settings.OF_THE_CLIENT:
        monkeypatch.setenv(name, "anything")

    assert load() == settings.Settings()


@pytest.mark.parametrize(
    "value", ["off", "strict", "slo", "share:0", "share:0.25", "share:1", "share:1.0"]
)
def test_the_gate_has_four_modes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SLALOM_GATE", value)

    assert load().gate == value


@pytest.mark.parametrize(
    "value",
    ["on", "Strict", "share", "share:", "share:2", "share:1.5", "share:-1", "share:0,5", "slo:1"],
)
def test_any_other_gate_is_refused_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SLALOM_GATE", value)

    with pytest.raises(SettingsError) as error:
        load()

    assert str(error.value).startswith(f"SLALOM_GATE: {value!r} cannot be used (")
    assert "or share:N, that share of them (0 to 1)" in str(error.value)


def test_variables_in_the_env_file_are_checked_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("SLALOM_LEASE=3\nSLALOM_PORT=8123\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SettingsError, match=r"\.env: SLALOM_LEASE is no setting"):
        load()


def test_without_a_url_the_embedded_server_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLALOM_REDIS_PORT", "7001")

    found = load()

    assert found.redis_is_embedded
    assert found.redis == "redis://127.0.0.1:7001/0"


@pytest.mark.parametrize(
    "url", ["redis://h:6379/0", "rediss://user:secret@h:6380/1", "unix:///run/redis.sock"]
)
def test_a_given_url_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)

    found = load()

    assert not found.redis_is_embedded
    assert found.redis == url


def test_the_effective_configuration_is_printed_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "rediss://user:hush@h:6380/1")
    monkeypatch.setenv("SLALOM_DASHBOARD_PASSWORD", "hush")

    shown = subprocess.run(
        [sys.executable, "-m", "config.settings"], capture_output=True, text=True, check=True
    )

    assert "REDIS_URL=rediss://user:****@h:6380/1" in shown.stdout
    assert "hush" not in shown.stdout
    assert "tier premium: queue high" in shown.stdout


def test_an_invalid_configuration_exits_non_zero_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLALOM_PORT", "none")

    shown = subprocess.run(
        [sys.executable, "-m", "config.settings"], capture_output=True, text=True, check=False
    )

    assert shown.returncode == 1
    assert "PORT" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_every_setting_is_documented() -> None:
    documented = (settings.ROOT / ".env.example").read_text(encoding="utf-8")

    missing = [
        settings.variables(field)[0]
        for field in settings.Settings.model_fields
        if settings.variables(field)[0] not in documented
    ]

    assert missing == []


def test_our_packages_are_the_ones_imported() -> None:
    assert Path(settings.__file__).parent == settings.ROOT / "config"
