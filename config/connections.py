"""Connections: the one factory of Redis clients, with two kinds of client.

`commands` is for ordinary commands: short timeouts, a few retries, one pool per process, whose
connections are taken in turns by however many threads there are. `listener` is for calls that block
(pub/sub, RQ's worker): no read timeout, no retries, never shared. redis-py 8 times every read out
after 5 s by default and RQ's worker changes the pool it is given; hence two kinds, made only here.
"""

from typing import Any

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis import exceptions as redis_errors
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

COMMAND_TIMEOUT_S = 3.0
MAX_CONNECTIONS = 64
"""Of a process, for ordinary commands: enough that the server is never idle for want of one."""

TURN_TIMEOUT_S = 20.0
"""A turn is long in coming when thousands of requests are woken at once, not when Redis is away."""

_TURNS: dict[str, Any] = {"max_connections": MAX_CONNECTIONS, "timeout": TURN_TIMEOUT_S}

UNAVAILABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
)
"""Redis is away, loading, read-only or full: it will pass, unlike other errors of Redis."""


def commands(url: str) -> Redis:
    """Return a client for ordinary commands."""
    pool = BlockingConnectionPool.from_url(url, **_TURNS, **_command_options())
    return Redis.from_pool(pool)


def listener(url: str) -> Redis:
    """Return a client for calls that block until something happens."""
    return Redis.from_url(url, max_connections=2000, **_listener_options())


def commands_like(connection: Redis, *, repeat: bool = True) -> Redis:
    """Return a client for ordinary commands to the server that `connection` talks to.

    Without `repeat` a command whose reply is lost fails at once, for callers that must know.
    """
    options = _command_options() if repeat else _command_options() | {"retry": _once()}
    return _like(connection, BlockingConnectionPool, **_TURNS, **options)


def listener_like(connection: Redis) -> Redis:
    """Return a client for calls that block, to the server that `connection` talks to."""
    return _like(connection, ConnectionPool, max_connections=2000, **_listener_options())


def _like(connection: Redis, kind: type[ConnectionPool], **options: Any) -> Redis:
    pool = connection.connection_pool
    kwargs = {**pool.connection_kwargs, **options}
    return Redis.from_pool(kind(connection_class=pool.connection_class, **kwargs))


def _command_options() -> dict[str, Any]:
    return {
        "socket_timeout": COMMAND_TIMEOUT_S,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=1, base=0.05), 3),
    }


def _listener_options() -> dict[str, Any]:
    return {
        "socket_timeout": None,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "retry": _once(),
    }


def _once() -> Retry:
    return Retry(NoBackoff(), 0)
