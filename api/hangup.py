"""Hang-up: notice that the client of a request has gone, while its answer is not ready yet.

A server learns that a client has gone when it writes, and who waits does not write. One thread per
process watches the sockets of all requests that asked for it (`epoll`: no work while nothing
happens) and calls them back when the client has closed its end. A client that closes only the half
on which it sends counts as gone.

    with context.hangups.watch(request.environ, wake) as client:
        ...
    if client.has_gone: ...

Without a socket, as in Flask's test client, nobody ever goes.
"""

import logging
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

logger = logging.getLogger(__name__)

_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Client:
    """The client of one request; `has_gone` once it has closed its end."""

    def __init__(self, on_gone: Callable[[], None]) -> None:
        self._on_gone = on_gone
        self._is_watched = True
        self._lock = threading.Lock()
        self.has_gone = False

    def gone(self) -> None:
        """Tell who watches, if he still does; the thread goes on whatever becomes of that."""
        with self._lock:
            if not self._is_watched:
                return
            self.has_gone = True
            try:
                self._on_gone()
            except Exception as error:
                extra = {"event": "hangup.failed", "error": error}
                logger.error("a hang-up could not be told", extra=extra)

    def forget(self) -> None:
        """Tell nobody any more."""
        with self._lock:
            self._is_watched = False


class Hangups:
    """The clients of this process that are watched."""

    def __init__(self) -> None:
        self._clients: dict[int, tuple[Client, ...]] = {}
        """By the number of the socket; a request may be watched for more than one."""
        self._lock = threading.Lock()
        self._poll: select.epoll | None = None

    @contextmanager
    def watch(self, environ: Mapping[str, Any], on_gone: Callable[[], None]) -> Iterator[Client]:
        """Call `on_gone`, in another thread, as soon as the client of the request has gone.

        It must be quick: all others are told by the same thread.
        """
        client = Client(on_gone)
        fileno = getattr(environ.get("gunicorn.socket"), "fileno", None)
        fd = fileno() if fileno else -1
        if fd < 0:
            yield client
            return
        self._add(fd, client)
        try:
            yield client
        finally:
            client.forget()
            self._remove(fd, client)

    def _add(self, fd: int, client: Client) -> None:
        with self._lock:
            if self._poll is None:
                self._poll = select.epoll()
                listen = partial(self._listen, self._poll)
                threading.Thread(target=listen, name="hangups", daemon=True).start()
            others = self._clients.get(fd, ())
            self._clients[fd] = (*others, client)
            arm = self._poll.modify if others else self._poll.register
            arm(fd, _GONE | select.EPOLLONESHOT)

    def _remove(self, fd: int, client: Client) -> None:
        with self._lock:
            assert self._poll is not None
            left = tuple(other for other in self._clients.pop(fd, ()) if other is not client)
            if left:
                self._clients[fd] = left
                return
            with suppress(OSError):  # the server has closed it
                self._poll.unregister(fd)

    def _listen(self, poll: select.epoll) -> None:
        while True:
            for fd, _ in poll.poll():
                with self._lock:
                    clients = self._clients.get(fd, ())
                for client in clients:
                    client.gone()
