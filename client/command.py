"""Command: a coroutine that takes a Session becomes a command, with the options that all have.

Whatever happens inside ends in a line on standard error and an exit status, never in a traceback.
Jobs that somebody waited for when it happened go on, and their ids are told.
"""

import asyncio
import functools
import inspect
import itertools
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any

import typer

from client.failure import DONE, INTERRUPTED, JOB_FAILED, MISUSED, Failure, Json, Refused
from client.following import ended
from client.server import Server
from client.terminal import Terminal, stop_writing

DEFAULT_URL = "http://127.0.0.1:8000"
PATIENCE_S = 60.0
EXIT_STATUS = (
    "Exit status: 0 done, and every job that was waited for succeeded; 1 a job failed, expired or "
    "was canceled, or a line of a file was bad; 2 the command line is wrong; 3 the server cannot "
    "be reached, or refused; 130 interrupted."
)
_SERVER = "Server"

AsJson = Annotated[
    bool, typer.Option("--json", help="Write JSON: one object, or one in each line.")
]
Url = Annotated[
    str,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="SLALOM_URL",
        rich_help_panel=_SERVER,
        help="Where the API is.",
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="KEY",
        envvar="SLALOM_API_KEY",
        rich_help_panel=_SERVER,
        show_default=False,
        help="The key, if the server wants one; better in the environment, out of sight.",
    ),
]
PatienceS = Annotated[
    float,
    typer.Option(
        "--patience",
        metavar="SECONDS",
        min=0,
        max=86_400,
        rich_help_panel=_SERVER,
        help="How long to go on asking a server that is busy, or away for a moment.",
    ),
]
_SHARED = (
    Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson),
    Parameter("url", Parameter.KEYWORD_ONLY, default=DEFAULT_URL, annotation=Url),
    Parameter("api_key", Parameter.KEYWORD_ONLY, default=None, annotation=ApiKey),
    Parameter("patience", Parameter.KEYWORD_ONLY, default=PATIENCE_S, annotation=PatienceS),
)


Subject = dict[str, Any]
"""One of many: `{"id": …}` of a job, or `{"line": …}` of a file."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a command works with: the server, the terminal, and the jobs it waits for."""

    server: Server
    terminal: Terminal
    awaited: dict[str, None]
    """Ids of the jobs that are waited for, in their order; they go on whatever becomes of us."""

    @contextmanager
    def awaiting(self, job_id: str) -> Iterator[None]:
        """Count a job among those that are waited for, until it has ended or turns out unknown."""
        self.awaited[job_id] = None
        try:
            yield
        except Failure as failure:
            if isinstance(failure, Refused) or not self.server.has_answered:
                self.awaited.pop(job_id, None)
            raise
        self.awaited.pop(job_id, None)

    async def ended(self, job_id: str) -> Json:
        """Return a job once it has ended."""
        with self.awaiting(job_id):
            return await ended(self.server, job_id)

    def refused(self, failure: Failure, subject: Subject) -> int:
        """Tell why one of many was refused; return the exit status."""
        [(name, value)] = subject.items()
        self.terminal.failure(failure, about=str(value) if name == "id" else f"{name} {value}")
        if self.terminal.as_json:
            self.terminal.json({**subject, "error": failure.body})
        return failure.status


Work = Callable[..., Awaitable[int | None]]


def command(app: typer.Typer, name: str) -> Callable[[Work], Work]:
    """Add a coroutine to `app`; it gets a Session and its own parameters, and may return a status.

    Its docstring is the help.
    """

    def register(work: Work) -> Work:
        own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
        own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]

        @functools.wraps(work)
        def run(
            *, as_json: bool, url: str, api_key: str | None, patience: float, **given: Any
        ) -> None:
            terminal = Terminal(as_json=as_json)

            awaited: dict[str, None] = {}

            async def session() -> int | None:
                async with Server(url, api_key, patience_s=patience, note=terminal.note) as server:
                    return await work(Session(server, terminal, awaited), **given)

            raise typer.Exit(_status(session, terminal, awaited))

        vars(run)["__signature__"] = inspect.Signature([*own, *_SHARED])
        run.__annotations__ = {}
        app.command(name, epilog=EXIT_STATUS)(run)
        return work

    return register


def _go_on(awaited: Collection[str]) -> list[str]:
    """Return a line about the jobs that go on without us, if there are any."""
    if not awaited:
        return []
    if len(awaited) == 1:
        return [f"the job goes on: slalom wait {next(iter(awaited))}"]
    shown = " ".join(itertools.islice(awaited, 2))
    more = " ..." if len(awaited) > 2 else ""
    return [f"{len(awaited)} jobs go on: slalom wait {shown}{more}"]


def _status(session: Callable[[], Any], terminal: Terminal, awaited: Collection[str]) -> int:
    """Run a session; return the exit status."""
    try:
        return asyncio.run(session()) or DONE
    except KeyboardInterrupt:
        terminal.note("; ".join(["interrupted", *_go_on(awaited)]))
        return INTERRUPTED
    except BrokenPipeError:
        stop_writing()
        return DONE
    except Failure as failure:
        terminal.failure(failure)
        for line in _go_on(awaited):
            terminal.note(line)
        if terminal.as_json:
            terminal.json({"error": failure.body})
        return failure.status
    except OSError as error:
        terminal.note(f"the output cannot be written: {error.strerror or error}")
        stop_writing()
        return MISUSED
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename}:{place.lineno}"
        terminal.note(f"this is a fault of slalom: {type(error).__name__}: {error} ({where})")
        return JOB_FAILED
