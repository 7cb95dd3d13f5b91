"""Dead letters at a terminal: list, show, replay, purge.

    python -m scheduler.dead_letters list --cause worker_died --newer-than 2h
    python -m scheduler.dead_letters show JOB
    python -m scheduler.dead_letters replay --tier premium --dry-run
    python -m scheduler.dead_letters purge --older-than 7d

Results go to standard output, progress and errors to standard error. The exit status is 0 when it
is done, 1 when it could not be, 2 when the command itself is wrong.
"""

import json
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from redis.exceptions import RedisError

from config import connections
from config.settings import Settings, SettingsError, load, mask_url
from scheduler import jobs
from scheduler.dead_letter_pages import BadCursor, Cursor, DeadLetter, Filter
from scheduler.dead_letters import DeadLetters, NotDeadLetter, NotReplayable, Step
from scheduler.jobs import UnknownJob

_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        settings = load()
        tiers = settings.tiers()
    except SettingsError as error:
        return _fail(f"invalid configuration:\n{error}")
    if given.command != "show":
        _check(parser, given, list(tiers.queues))
    letters = DeadLetters(connections.commands(settings.redis), tiers)
    return _run(letters, given, settings)


def _run(letters: DeadLetters, given: Namespace, settings: Settings) -> int:
    try:
        given.run(letters, given)
        sys.stdout.flush()
    except UnknownJob as error:
        return _fail(f"there is no job {error}: it never was, or it has expired")
    except (NotDeadLetter, NotReplayable, BadCursor) as error:
        return _fail(str(error))
    except RedisError as error:
        return _fail(f"Redis at {mask_url(settings.redis)} failed: {error}")
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _fail("interrupted; what was done stays done, run it again to go on")
    return 0


def _parser() -> ArgumentParser:
    summary = "Failed jobs, parked for a person who looks, then replays or purges them."
    parser = ArgumentParser("python -m scheduler.dead_letters", description=summary)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    listing = commands.add_parser("list", help="list dead letters, newest first in each queue")
    _add_filter(listing)
    listing.add_argument("--limit", type=_count, default=50, help="entries of a page (default: 50)")
    listing.add_argument("--cursor", help="go on behind an earlier page")
    listing.add_argument("--all", action="store_true", help="every page")
    listing.set_defaults(run=_list, job=[])
    show = commands.add_parser("show", help="show one, whole")
    show.add_argument("job", help="its id")
    show.add_argument("--json", action="store_true", help="one line of JSON")
    show.set_defaults(run=_show)
    for name in ("replay", "purge"):
        command = commands.add_parser(name, help=f"{name} by id or by filter")
        command.add_argument("job", nargs="*", help="ids; none: those the filter means")
        _add_filter(command)
        command.add_argument("--dry-run", action="store_true", help="only count")
        command.add_argument("--all", action="store_true", help="needed where no filter is given")
        command.set_defaults(run=_bulk)
    return parser


def _add_filter(parser: ArgumentParser) -> None:
    parser.add_argument("--queue", help="of this queue")
    parser.add_argument("--tier", help="of this tier")
    parser.add_argument("--cause", help="failed so: worker_died, timeout, invalid_request, ...")
    ages = {"--older-than": "ended at least so long ago", "--newer-than": "ended since"}
    for option, text in ages.items():
        parser.add_argument(option, type=_seconds, metavar="AGE", help=f"{text}: 90, 15m, 2h, 7d")
    parser.add_argument("--json", action="store_true", help="one line of JSON each")


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not match:
        raise ArgumentTypeError(f"{text!r} is no age; write 90, 15m, 2h or 7d")
    return float(match[1]) * _UNIT_S[match[2]]


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise ArgumentTypeError(f"{text!r} is no number from 1 to 1000")
    return int(text)


def _check(parser: ArgumentParser, given: Namespace, queues: list[str]) -> None:
    """End with status 2 where the arguments contradict each other."""
    filtered = _filter(given) != Filter()
    if given.queue not in (None, *queues):
        parser.error(f"there is no queue {given.queue}; use one of {', '.join(queues)}")
    if given.job and (filtered or given.all):
        parser.error("give ids, or a filter, not both")
    if given.command != "list" and not (given.job or filtered or given.all or given.dry_run):
        parser.error(f"{given.command} what? Give ids, a filter, or --all")


def _filter(given: Namespace) -> Filter:
    return Filter(given.queue, given.tier, given.cause, given.older_than, given.newer_than)


def _list(letters: DeadLetters, given: Namespace) -> None:
    cursor = Cursor.parse(given.cursor) if given.cursor else None
    left = given.limit
    while True:
        page = letters.page(_filter(given), cursor=cursor, limit=left)
        for letter in page.letters:
            _out(_json(letter) if given.json else _line(letter))
        cursor = page.cursor
        left = given.limit if given.all else left - len(page.letters)
        if not (cursor and left):
            break
    if cursor:
        _err(f"there may be more: --cursor {cursor}")


def _json(letter: DeadLetter) -> str:
    shown = {name: value for name, value in asdict(letter).items() if name != "meta"}
    return json.dumps(shown, default=_plain)


def _plain(value: Any) -> str:
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _line(letter: DeadLetter) -> str:
    ended = letter.ended_at.isoformat(timespec="seconds") if letter.ended_at else "-"
    tier = letter.tier or "-"
    return f"{letter.id}  {ended}  {letter.queue}  {tier}  {letter.cause}  {letter.message}"


def _show(letters: DeadLetters, given: Namespace) -> None:
    view = asdict(jobs.view(letters.get(given.job)))
    _out(json.dumps(view, default=_plain, indent=None if given.json else 2))


def _bulk(letters: DeadLetters, given: Namespace) -> None:
    """Replay or purge by ids or by filter; report progress, then the sums."""
    one, several, done = (
        (letters.replay, letters.replay_all, "replayed")
        if given.command == "replay"
        else (letters.purge, letters.purge_all, "purged")
    )
    counts = {"scanned": 0, "matched": 0, done: 0}
    for job_id in given.job:
        (letters.get if given.dry_run else one)(job_id)
        _add(counts, done, Step(1, 1, 0 if given.dry_run else 1, None))
    for step in [] if given.job else several(_filter(given), dry_run=given.dry_run):
        _add(counts, done, step)
        if step.cursor:
            _err(_counted(counts))
    _out(json.dumps(counts) if given.json else _counted(counts))


def _add(counts: dict[str, int], done: str, step: Step) -> None:
    counts["scanned"] += step.scanned
    counts["matched"] += step.matched
    counts[done] += step.done


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _out(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _err(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _fail(text: str) -> int:
    _err(text)
    return 1
