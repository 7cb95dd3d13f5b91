"""Pages: lists that the server gives piece by piece, with a cursor to go on behind each."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from typing import Any

from rich.console import RenderableType

from client.command import Session
from client.failure import Json
from client.server import Server

MOST_PER_PAGE = 100


async def pages(
    server: Server, path: str, wanted: Mapping[str, Any], most: int | None
) -> AsyncGenerator[Json]:
    """Yield pages with `most` items altogether, None: all there are."""
    cursor = wanted.get("cursor")
    left = most
    while left is None or left > 0:
        limit = MOST_PER_PAGE if left is None else min(left, MOST_PER_PAGE)
        page = await server.get(path, **{**wanted, "cursor": cursor, "limit": limit})
        yield page
        cursor = page.get("next_cursor")
        if not cursor:
            return
        if left is not None:
            left -= len(page["data"])


async def write_list(
    session: Session,
    path: str,
    wanted: Mapping[str, Any],
    most: int | None,
    table: Callable[[Iterable[Json]], RenderableType],
) -> None:
    """Write the items as a table, or as JSON lines, and how to go on behind them."""
    items: list[Json] = []
    cursor = None
    async for page in pages(session.server, path, wanted, most):
        cursor = page.get("next_cursor")
        if not session.terminal.as_json:
            items += page["data"]
            continue
        for item in page["data"]:
            session.terminal.json(item)
    if items:
        session.terminal.print(table(items))
    elif not session.terminal.as_json:
        session.terminal.hint("nothing there")
    if cursor:
        session.terminal.note(f"there may be more: --cursor {cursor}")
