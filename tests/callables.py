"""Plain functions that workers under test run."""

from typing import Any


def add(a: int, b: int) -> int:
    return a + b


def nothing() -> None:
    return None


def fail(message: str) -> None:
    raise RuntimeError(message)


async def add_later(a: int, b: int) -> int:
    return a + b


def echo(value: Any) -> Any:
    return value
