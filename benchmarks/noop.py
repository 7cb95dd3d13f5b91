"""The job of a benchmark that measures workers: a module that costs nothing to import."""

import time


def nothing() -> None:
    """Do nothing."""


def now() -> float:
    """Return the instant (epoch s) at which the job runs."""
    return time.time()
