"""Settings: every knob of every process, from the environment and `.env`, typed and frozen.

Names are `SLALOM_` plus the field's name in capitals; `REDIS_URL` and `PORT` also work bare,
because hosting platforms set them so. A variable that begins with `SLALOM_` and is no field is an
error: a typo must not become a default.

    python -m config.settings     print what is in effect, secrets masked; exit 1 if invalid
"""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.tiers import TierTable, TierTableError

ROOT = Path(__file__).resolve().parent.parent
ENV_FILE = ".env"
PREFIX = "SLALOM_"
OF_THE_CLIENT = ("SLALOM_URL", "SLALOM_API_KEY")
"""What the `slalom` command line reads; no setting of a server, and no typo beside one."""

Port = Annotated[int, Field(ge=1, le=65535)]


class SettingsError(Exception):
    """The configuration is invalid; the message names each variable and the fix."""


class Settings(BaseSettings):
    """The effective configuration of one process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
    )

    redis_url: str = Field(
        "",
        validation_alias=AliasChoices("REDIS_URL", "SLALOM_REDIS_URL"),
        description="redis://, rediss:// (TLS) or unix://; empty: the embedded server on loopback",
    )
    redis_port: Port = Field(6380, description="port of the embedded Redis server")
    data_dir: Path = Field(
        ROOT / ".slalom", description="embedded Redis data, logs, process records"
    )

    host: str = Field("127.0.0.1", description="address the API binds")
    port: Port = Field(
        8000,
        validation_alias=AliasChoices("PORT", "SLALOM_PORT"),
        description="port the API binds",
    )
    web_threads: int = Field(
        4096,
        ge=2,
        description="requests (waiting ones included) per web process; each holds a thread",
    )
    web_processes: int = Field(1, ge=1, description="web processes")
    max_body_bytes: int = Field(1 << 20, ge=1024, description="largest request body accepted")
    max_jobs_at_once: int = Field(1000, ge=1, description="most jobs of one POST /v1/jobs:batch")
    max_batch_body_bytes: int = Field(
        16 << 20, ge=1024, description="largest body of a POST /v1/jobs:batch"
    )
    idempotency_s: int = Field(
        86_400, ge=1, description="how long an Idempotency-Key stands for the job that it made"
    )
    cors_origins: str = Field(
        "",
        description="origins of pages that may call the API from a browser, comma-separated, such "
        "as https://app.example.com; empty: none",
    )
    hsts_s: int | None = Field(
        None,
        ge=0,
        description="Strict-Transport-Security's max-age, for an API that is behind TLS; empty: "
        "none is sent",
    )
    max_wait_s: int = Field(30, ge=1, description="longest `Prefer: wait`, the sync objective")

    max_file_bytes: int = Field(
        100 << 20, ge=1024, le=1 << 30, description="largest file that may be uploaded"
    )
    file_ttl_s: int = Field(
        30 * 86_400,
        ge=3600,
        le=365 * 86_400,
        description="seconds that uploaded files, results of batches and ended batches are kept",
    )
    max_batch_lines: int = Field(50_000, ge=1, le=1_000_000, description="lines of one batch")
    batch_ahead: int = Field(
        1000, ge=1, le=100_000, description="jobs of one batch that are queued or run at a time"
    )

    dashboard_bind: str = Field("127.0.0.1", description="address the dashboard binds")
    dashboard_port: Port = Field(9181, description="port the dashboard binds")
    dashboard_user: str = Field("slalom", description="user name of the dashboard")
    dashboard_password: SecretStr = Field(
        SecretStr(""),
        description="password of the dashboard; required when it binds beyond loopback",
    )

    engine: Literal["vllm", "sim"] = Field("vllm", description="inference engine of the workers")
    model: str = Field(
        str(ROOT / "models" / "adder"), description="Hugging Face id or a folder, loaded by vLLM"
    )
    vllm_args: str = Field("", description="any flags of `vllm serve`, read by vLLM's own parser")
    max_inflight: int | None = Field(
        None,
        ge=1,
        description="jobs of each class, high and low, that one worker holds at a time; "
        "empty: as many as the engine needs to stay full",
    )
    gate: str = Field(
        "slo",
        pattern=r"^(off|strict|slo|share:(0(\.\d+)?|1(\.0+)?))$",
        description="engine steps with high requests that low ones take part in: off (all), strict "
        "(none), slo (as objectives allow), or share:N, that share of them (0 to 1)",
    )
    low_floor: float = Field(
        0.05, ge=0, le=1, description="share of engine steps that low requests get in any case"
    )
    reserve_seats: int | None = Field(
        None,
        ge=0,
        description="seats of the engine that low requests leave free; empty: an eighth",
    )
    step_timeout_s: float = Field(
        120.0, gt=0, description="an engine with work and without a step for this long is restarted"
    )
    lease_s: float = Field(30.0, ge=1, description="a worker silent for this long loses its jobs")
    drain_s: float = Field(
        50.0, ge=0, description="time a stopping worker has for its jobs in flight"
    )
    max_deliveries: int = Field(
        3, ge=1, description="worker deaths after which a job is a dead letter"
    )

    autoscale_interval_s: float = Field(
        5.0, gt=0, description="seconds between autoscaler decisions"
    )
    tiers_file: Path = Field(ROOT / "config" / "tiers.yaml", description="the SLA table")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="log level")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.redis_url and urlsplit(self.redis_url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("REDIS_URL must begin with redis://, rediss:// or unix://")
        if not is_loopback(self.dashboard_bind) and not self.dashboard_password.get_secret_value():
            raise ValueError(
                f"SLALOM_DASHBOARD_BIND={self.dashboard_bind} is open to the network: "
                "set SLALOM_DASHBOARD_PASSWORD, or bind 127.0.0.1"
            )
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^\s/*,?#@]+", origin):
                raise ValueError(
                    f"SLALOM_CORS_ORIGINS: {origin} is no origin: give scheme and host, such as "
                    "https://app.example.com, without a path and without a star"
                )
        try:
            shlex.split(self.vllm_args)
        except ValueError as error:
            raise ValueError(f"SLALOM_VLLM_ARGS cannot be split into flags: {error}") from error
        return self

    @property
    def origins(self) -> frozenset[str]:
        """Origins of pages that may call the API from a browser."""
        return frozenset(filter(None, (origin.strip() for origin in self.cors_origins.split(","))))

    @property
    def redis_is_embedded(self) -> bool:
        """Whether this installation runs its own Redis server."""
        return not self.redis_url

    @property
    def redis(self) -> str:
        """URL of the Redis server everything uses."""
        return self.redis_url or f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def served_model(self) -> str:
        """Name under which the model is served: the Hub id, or the folder's own name."""
        path = Path(self.model)
        return path.resolve().name if path.is_dir() else self.model

    def tiers(self) -> TierTable:
        """Return the SLA table; SettingsError if it is invalid."""
        try:
            return TierTable.load(self.tiers_file)
        except TierTableError as error:
            raise SettingsError(str(error)) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address bound to `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load() -> Settings:
    """Return the settings of this process; SettingsError names every variable that is wrong."""
    unknown = _unknown_variables()
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(
            "\n".join([*unknown, *map(_line, error.errors(include_url=False))])
        ) from error
    if unknown:
        raise SettingsError("\n".join(unknown))
    return settings


def _unknown_variables() -> list[str]:
    """Return a line for every SLALOM_ variable that is no setting."""
    known = {name for field in Settings.model_fields for name in variables(field)}
    known.update(OF_THE_CLIENT)
    given = [("environment", name) for name in os.environ] + [
        (ENV_FILE, name) for name in dotenv_values(ENV_FILE)
    ]
    return [
        f"{source}: {name} is no setting{_suggestion(name, known)}"
        for source, name in given
        if name.startswith(PREFIX) and name not in known
    ]


def variables(field: str) -> list[str]:
    """Return the names of the environment variables that set `field`, the usual one first."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [PREFIX + field.upper()]


def _suggestion(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else "; see .env.example for the list"


def _line(error: object) -> str:
    """Return one line for a pydantic error: the variable, what is wrong, the value's place."""
    assert isinstance(error, dict)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "string_pattern_mismatch":
        message = f"{error['input']!r} cannot be used"  # the pattern tells nobody anything
    if not error["loc"]:
        return message
    location = str(error["loc"][0])
    field = next((f for f in Settings.model_fields if location in [f, *variables(f)]), location)
    name = variables(field)[0] if field in Settings.model_fields else location
    return f"{name}: {message} ({Settings.model_fields[field].description})"


def mask_url(url: str) -> str:
    """Return `url` with its password replaced by asterisks."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":****@")
    return urlunsplit(parts._replace(netloc=netloc))


def _main() -> int:
    try:
        settings = load()
        table = settings.tiers()
    except SettingsError as error:
        sys.stderr.write(f"invalid configuration:\n{error}\n")
        return 1
    out = sys.stdout.write
    for field in Settings.model_fields:
        value = getattr(settings, field)
        out(f"{variables(field)[0]}={mask_url(value) if field == 'redis_url' else value}\n")
    out(f"# Redis in use: {mask_url(settings.redis)}\n")
    for name, tier in table.tiers.items():
        means = ",".join(tier.service_tiers) or "-"
        out(f"# tier {name}: queue {tier.queue}, service_tier {means}, priority {tier.priority}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
