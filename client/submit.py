"""Submit: a prompt, or the jobs in the lines of a file, with what is wanted of them."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from client import given, tables
from client.command import Session, command
from client.failure import DONE, Json, Misused
from client.many import submit_lines
from client.times import seconds
from client.wait import ended_as, live

_REQUEST = "What is asked for"
_AFTER = "What happens then"


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "submit")(submit)


async def submit(
    session: Session,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The prompt; - reads standard input.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from a file."),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Submit a job for each line, an object as POST /v1/jobs takes it; - reads "
            "standard input. Options stand for what a line leaves out.",
        ),
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(
            "--tier",
            "-t",
            metavar="TIER",
            rich_help_panel=_REQUEST,
            help="How it is to be served: premium, standard, batch, ...",
        ),
    ] = None,
    fallback_tier: Annotated[
        str | None,
        typer.Option(
            metavar="TIER",
            rich_help_panel=_REQUEST,
            help="Where it may be served if it would be late in its own.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            rich_help_panel=_REQUEST,
            help="The model; see slalom models.",
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat", rich_help_panel=_REQUEST, help="Send it as a message to a chat model."
        ),
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            rich_help_panel=_REQUEST,
            help="The system message of a chat; implies --chat.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", rich_help_panel=_REQUEST, help="Most tokens of the answer."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", rich_help_panel=_REQUEST, help="0 to 2.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", rich_help_panel=_REQUEST, help="Above 0, to 1.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", rich_help_panel=_REQUEST, help="Of the sampling.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", rich_help_panel=_REQUEST, help="Ends the answer; may be given again."
        ),
    ] = None,
    start_within: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            rich_help_panel=_REQUEST,
            help="Start by then or not at all: 90, 15m, 2h, 7d.",
        ),
    ] = None,
    finish_within: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", rich_help_panel=_REQUEST, help="Finish by then or not at all."
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            rich_help_panel=_REQUEST,
            help="Kept with the job; may be given again.",
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            rich_help_panel=_REQUEST,
            help="Sent again with the same key, it makes no second job.",
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", "-w", rich_help_panel=_AFTER, help="Wait for the answer and write it."
        ),
    ] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", "-s", rich_help_panel=_AFTER, help="Write the answer as it comes."
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=_AFTER,
            help="Write to a file; with --jsonl, JSON lines.",
        ),
    ] = None,
) -> int:
    """Submit a job, or many; write the id of each, or with --wait the answer.

    A line of --jsonl that is bad or refused is told with its number, and the others go on.
    """
    _check(prompt, file, jsonl, [chat, system, stream], idempotency_key)
    wanted: dict[str, Any] = {
        "tier": tier,
        "fallback_tier": fallback_tier,
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or None,
        "start_within_s": seconds("--start-within", start_within),
        "finish_within_s": seconds("--finish-within", finish_within),
        "metadata": pairs(metadata or []) or None,
        "stream": stream or None,
    }
    asked = {name: value for name, value in wanted.items() if value is not None}
    if jsonl is not None:
        with session.terminal.into(output, as_json=output is not None):
            return await submit_lines(
                session, jsonl, asked, key=idempotency_key, is_waited_for=wait
            )
    text = await _prompt(session, prompt, file)
    body = asked | (_chat(text, system) if chat or system is not None else {"prompt": text})
    _check_text(body)
    with session.terminal.into(output):
        job = await session.server.post("/v1/jobs", body, key=idempotency_key)
        if stream:
            return await live(session, str(job["id"]))
        return await (_answer(session, job) if wait else _receipt(session, job))


async def _receipt(session: Session, job: Json) -> int:
    """Write the id of a job that was accepted."""
    if session.terminal.as_json:
        session.terminal.json(job)
        return DONE
    session.terminal.line(str(job["id"]))
    place = f", {job['position']} before it" if job.get("position") else ""
    session.terminal.hint(f"{job['status']} in {job['queue']}{place}; slalom wait {job['id']}")
    return DONE


async def _answer(session: Session, job: Json) -> int:
    """Wait for a job and write its answer; return the exit status."""
    with session.terminal.progress("waiting", 1):
        found = await session.ended(str(job["id"]))
    if session.terminal.as_json:
        session.terminal.json(found)
    elif answer := tables.answer(found):
        session.terminal.line(answer)
    return ended_as(session, found)


async def _prompt(session: Session, prompt: str | None, file: str | None) -> str:
    """Return the prompt, from wherever it comes."""
    path = given.STDIN if prompt == given.STDIN else file
    return prompt or "" if path is None else await given.text(path, session.terminal.note)


def _chat(text: str, system: str | None) -> Json:
    first = [] if system is None else [{"role": "system", "content": system}]
    return {"messages": [*first, {"role": "user", "content": text}]}


def _check(
    prompt: str | None, file: str | None, jsonl: str | None, of_one: list[object], key: str | None
) -> None:
    """Raise Misused where the arguments contradict each other."""
    if sum(source is not None for source in (prompt, file, jsonl)) != 1:
        raise Misused("give one of: a prompt, - for standard input, --file, --jsonl")
    if jsonl is not None and any(value not in (None, False) for value in of_one):
        raise Misused("--chat, --system and --stream are for one job: a line says so itself")
    if key is not None and not re.fullmatch("[!-~]{1,200}", key):
        raise Misused("--idempotency-key must be 1 to 200 visible ASCII characters")


def _check_text(body: Json) -> None:
    """Raise Misused for bytes on the command line that are no text."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Misused("what was given is not valid UTF-8") from error


def pairs(given: list[str]) -> dict[str, str]:
    """Return metadata as a dict; Misused if one is no KEY=VALUE."""
    found = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not (separator and key):
            raise Misused("--metadata must be KEY=VALUE")
        found[key] = value
    return found
