"""Tables: jobs, queues, models and dead letters as a person likes to see them, in 80 columns.

Tables have no frames: each row is a line, and on a pipe it is never cut. Times are told as ages;
`--json` has the instants.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from client.failure import Json
from client.terminal import plain
from client.times import age, between, duration

STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "canceled": "magenta",
}


def jobs(items: Iterable[Json]) -> Table:
    """Return one row per job."""
    table = _table("ID", "STATUS", "TIER", "QUEUE", "CREATED", "TOOK")
    for job in items:
        table.add_row(
            cell(job.get("id")),
            state(job),
            cell(job.get("tier")),
            cell(job.get("queue")),
            age(job.get("created_at")),
            between(job.get("created_at"), job.get("finished_at")),
        )
    return table


def job(body: Json) -> Table:
    """Return what is known of one job, but for its answer."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _rows(body):
        grid.add_row(name, value)
    return grid


def outcome(body: Json) -> Text:
    """Return in one line what became of a job."""
    said = error_of(body) or answer(body)
    line = Text.assemble(cell(body.get("id")), "  ", state(body))
    return line.append(f"  {' '.join(plain(said).split())}") if said else line


def queues(items: Iterable[Json]) -> Table:
    """Return one row per queue."""
    numbers = ("WAITING", "RUNNING", "WORKERS", "STARTING")
    table = _table("QUEUE", *numbers, "NEXT WAITS", "TIERS", right=numbers)
    for queue in items:
        waits_s = queue.get("next_waits_s")
        table.add_row(
            cell(queue.get("name")),
            *(cell(queue.get(number.lower())) for number in numbers),
            "-" if waits_s is None else duration(float(waits_s)),
            cell(", ".join(queue.get("tiers") or [])),
        )
    return table


def models(items: Iterable[Json]) -> Table:
    """Return one row per model."""
    table = _table("MODEL", "MAX LENGTH", "ANNOUNCED", right=("MAX LENGTH",))
    for model in items:
        length = model.get("max_model_len")
        table.add_row(cell(model.get("id")), cell(length), age(model.get("created")))
    return table


def dead_letters(items: Iterable[Json]) -> Table:
    """Return one row per dead letter."""
    table = _table("ID", "ENDED", "QUEUE", "CAUSE", "MESSAGE")
    for letter in items:
        table.add_row(
            cell(letter.get("id")),
            age(letter.get("ended_at")),
            cell(letter.get("queue")),
            Text(plain(str(letter.get("cause") or "-")), style="red"),
            Text(" ".join(plain(str(letter.get("message") or "")).split())),
        )
    table.columns[-1].overflow = "ellipsis"
    return table


def answer(body: Json) -> str:
    """Return what the model wrote, an empty text if nothing."""
    output = body.get("output")
    return str(output.get("text") or "") if isinstance(output, dict) else ""


def error_of(body: Json) -> str:
    """Return why a job failed, an empty text if it did not."""
    error = body.get("error")
    return f"{error.get('code')}: {error.get('message')}" if isinstance(error, dict) else ""


def state(body: Json) -> Text:
    """Return a status in its colour."""
    word = "stopping" if body.get("stopping") else str(body.get("status"))
    return Text(plain(word), style=STYLES.get(str(body.get("status")), ""))


def cell(value: Any) -> Text:
    """Return a value as a cell that stays in one line."""
    return Text("-" if value is None else " ".join(plain(str(value)).split()), no_wrap=True)


def _rows(body: Json) -> Iterable[tuple[str, RenderableType]]:
    """Yield what is to be said of a job."""
    yield "id", cell(body.get("id"))
    yield "status", state(body)
    yield "tier", cell(f"{body.get('tier') or '-'}, queue {body.get('queue')}")
    yield "model", cell(body.get("model"))
    created = body.get("created_at")
    yield "created", f"{created}, {age(created)}"
    for name, key in (("started", "started_at"), ("first token", "first_token_at")):
        if body.get(key):
            yield name, f"after {between(created, body[key])}"
    if body.get("finished_at"):
        yield "finished", f"after {between(created, body['finished_at'])}"
    else:
        yield from _outlook(body)
    if usage := body.get("usage"):
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        yield "tokens", f"{prompt} in, {completion} out"
    for key, value in (body.get("metadata") or {}).items():
        yield "metadata", Text(plain(f"{key}={value}"))
    if error := error_of(body):
        yield "error", Text(plain(error), style="red")


def _outlook(body: Json) -> Iterable[tuple[str, RenderableType]]:
    """Yield what is to be said of a job that has not ended."""
    if body.get("position") is not None:
        yield "position", str(body["position"])
    if estimate := body.get("estimate"):
        now = datetime.now(UTC).isoformat()
        ends = estimate["finish_at"]
        p50, p90 = between(now, ends["p50"]), between(now, ends["p90"])
        yield "finishes", f"in {p50}, most likely within {p90}"
    if body.get("deadline_at"):
        risk = ", at risk" if body.get("at_risk") else ""
        yield "deadline", f"{body['deadline_at']}{risk}"


def _table(*names: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in names:
        is_id = name == "ID"
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            min_width=36 if is_id else None,
            overflow="fold" if is_id else "ellipsis",
        )
    return table
