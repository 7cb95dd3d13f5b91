"""Times: durations as people write and read them, and how long ago an instant is."""

import re
from datetime import UTC, datetime
from typing import Any

from client.failure import Misused

_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_UNITS = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s"))


def seconds(option: str, text: str | None) -> float | None:
    """Return a time such as 90, 15m, 2h or 7d; Misused if `text` is none."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([smhd]?)", text)
    if not match:
        raise Misused(f"{option} {text[:20]!r} is no time; write 90, 15m, 2h or 7d")
    return float(match[1]) * _UNIT_S[match[2]]


def before(option: str, text: str | None) -> str | None:
    """Return the instant that lies so long ago as `text` says."""
    ago_s = seconds(option, text)
    if ago_s is None:
        return None
    return datetime.fromtimestamp(max(0.0, datetime.now(UTC).timestamp() - ago_s), UTC).isoformat()


def age(at: Any) -> str:
    """Return how long ago an instant is."""
    seconds = _epoch(at)
    return "-" if seconds is None else f"{duration(datetime.now(UTC).timestamp() - seconds)} ago"


def between(start: Any, end: Any) -> str:
    """Return the time between two instants."""
    first, last = _epoch(start), _epoch(end)
    return "-" if first is None or last is None else duration(last - first)


def duration(seconds: float) -> str:
    """Return a time in its fitting units: 38ms, 1.4s, 12s, 3m20s, 2d4h."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"
    size, unit, small, small_unit = next(row for row in _UNITS if seconds >= row[0])
    rest = int(seconds % size) // small
    return f"{int(seconds) // size}{unit}" + (f"{rest}{small_unit}" if rest else "")


def _epoch(at: Any) -> float | None:
    """Return an instant, epoch seconds or ISO 8601, in epoch seconds."""
    if isinstance(at, int | float):
        return float(at)
    try:
        return datetime.fromisoformat(str(at)).timestamp() if at else None
    except ValueError:
        return None
