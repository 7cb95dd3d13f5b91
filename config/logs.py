"""Logs: one line per event on standard error, with the event's name and its numbers.

    2026-11-21T10:00:00Z INFO scheduler.autoscaler worker added event=autoscaler.added queue=low
    depth=900

A call gives the sentence and `extra={"event": …, …}`; everything in `extra` is appended as
`key=value`.
"""

import logging
import time
from collections.abc import Callable
from functools import cache

LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"
INSTANT = "%Y-%m-%dT%H:%M:%SZ"
_FORMATTED = {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Format a record and its extra fields as one line."""

    converter = staticmethod(time.gmtime)

    def __init__(self, line: str | None = None, instant: str | None = None) -> None:
        super().__init__(line or LINE, instant or INSTANT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the line of `record`, its extra fields last."""
        standard = _standard(logging.getLogRecordFactory())
        given = ((k, v) for k, v in vars(record).items() if k not in standard)
        extra = (f"{k}={_value(v)}" for k, v in given)
        return " ".join([super().formatMessage(record), *extra])


@cache
def _standard(factory: Callable[..., logging.LogRecord]) -> frozenset[str]:
    """Return what every record has: libraries may add to it, with a factory of theirs."""
    return frozenset(vars(factory(None, None, "", 0, "", (), None))) | _FORMATTED


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return repr(text) if " " in text else text


def configure(level: str | int, line: str | None = None, instant: str | None = None) -> None:
    """Send this process's log to standard error at `level`, in formats of `logging` if given."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(line, instant))
    logging.basicConfig(level=level, handlers=[handler], force=True)
