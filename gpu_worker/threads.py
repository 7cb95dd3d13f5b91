"""Threads for the functions of jobs: one that never returns does not keep the process alive.

They are daemons, made when first needed and kept. What a function raises travels as a value: an
asyncio future refuses StopIteration, and SystemExit in one would end the loop.
"""

import asyncio
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from rq.timeouts import JobTimeoutException


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class Threads:
    """Runs up to `most` functions at a time, for one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._num = 0
        self._idle = threading.Semaphore(0)
        self._calls: SimpleQueue[tuple[_Interruptible, Future[_Outcome]]] = SimpleQueue()

    async def run(self, function: Callable[[], Any], *, is_interruptible: bool = True) -> Any:
        """Return what `function` returns, raise what it raises.

        Cancelling interrupts it; what is not interruptible goes on, and nobody learns its outcome.
        """
        call = _Interruptible(partial(copy_context().run, function))
        future: Future[_Outcome] = Future()
        self._calls.put((call, future))
        self._ensure_thread()
        try:
            outcome = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if is_interruptible:
                call.interrupt()
            raise
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _ensure_thread(self) -> None:
        if not self._idle.acquire(blocking=False) and self._num < self._most:
            self._num += 1
            threading.Thread(target=self._serve, name=f"job_{self._num}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                self._serve_one()
            except BaseException:  # an interruption that came late: nobody waits for this call
                continue
            finally:
                self._idle.release()

    def _serve_one(self) -> None:
        call, future = self._calls.get()
        if not future.set_running_or_notify_cancel():
            return
        try:
            outcome = _Outcome(call())
        except BaseException as error:
            outcome = _Outcome(error=error)
        future.set_result(outcome)


class _Interruptible:
    """A call in some thread, which another thread may interrupt while it runs."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._thread: int | None = None

    def __call__(self) -> Any:
        with self._lock:
            self._thread = threading.get_ident()
        try:
            return self._call()
        finally:
            with self._lock:
                self._thread = None

    def interrupt(self) -> None:
        """Raise JobTimeoutException in the thread, if the call still runs."""
        with self._lock:
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread), ctypes.py_object(JobTimeoutException)
                )
