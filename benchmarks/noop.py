"""The job of a benchmark that measures workers: a module that costs nothing to import."""


def nothing() -> None:
    """Do nothing."""
