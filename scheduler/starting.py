"""Starting: workers whose engine still loads, so that nobody starts more of them meanwhile.

A worker appears in RQ only when it can run jobs, and a large model takes minutes to load. Until
then its name stands in `slalom:starting:{queue}`, renewed by a thread, gone soon after its death.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from scheduler import keys

TTL_S = 30.0


@contextmanager
def announced(connection: Redis, worker: str, queues: Sequence[str]) -> Iterator[None]:
    """Count `worker` as one that starts while the context lasts."""
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(connection, worker, queues, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(RedisError):
            for queue in queues:
                connection.zrem(keys.starting(queue), worker)


def starting(connection: Redis, queue: str) -> set[str]:
    """Return the names of the workers that will serve `queue` soon."""
    key = keys.starting(queue)
    connection.zremrangebyscore(key, "-inf", time.time())
    return {cast(bytes, name).decode() for name in connection.zrange(key, 0, -1)}


def _renew(connection: Redis, worker: str, queues: Sequence[str], ended: threading.Event) -> None:
    while True:
        with suppress(RedisError):
            for queue in queues:
                connection.zadd(keys.starting(queue), {worker: time.time() + TTL_S})
        if ended.wait(TTL_S / 3):
            return
