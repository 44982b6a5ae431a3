"""An event loop in a thread of its own, for those who have none.

The laws.

* Whoever calls waits in its own thread, and what it waits for is cancelled with it (Ctrl-C).
* When the loop ends, everything that runs there is cancelled; other threads that wait for it hear
  ClientClosed.
* The thread is its process's: in a forked child every call raises ClientForked, and leaving a block
  does nothing.
"""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from threading import Thread
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from dledger_py.client.errors import ClientClosed, ClientForked
from dledger_py.client.unique_ids import forks

T = TypeVar("T")


class LoopThread:
    """The thread with the event loop, as other threads see it.

    AnyIO has a context manager for this; as a generator it would end the parent's loop, or wait for
    it, when a forked child forgets it.
    """

    def __init__(self, backend: str) -> None:
        self._forks = forks()
        self.ended = False
        started: Future[BlockingPortal] = Future()

        async def loop() -> None:
            async with BlockingPortal() as portal:
                started.set_result(portal)
                await portal.sleep_until_stopped()

        def run() -> None:
            try:
                anyio.run(loop, backend=backend)
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        self._thread = Thread(target=run, name="dledger client", daemon=True)
        self._thread.start()
        self._portal = started.result()

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one the thread runs in."""
        return forks() != self._forks

    def check(self) -> None:
        """**Raises** ClientForked or ClientClosed if nothing can be called there."""
        if self.forked:
            raise ClientForked
        if self.ended:
            raise ClientClosed

    def end(self) -> None:
        """End everything that still runs there.  Other threads that wait hear ClientClosed."""
        self._portal.call(self._portal.stop, True)
        self._thread.join()

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Run *function* there, async or not, and wait for it; Ctrl-C cancels it."""
        self.check()
        future = self._portal.start_task_soon(partial(function, *arguments, **keywords))
        try:
            return future.result()
        except CancelledError as error:  # the block ended meanwhile, in another thread
            raise ClientClosed from error
        except BaseException:
            future.cancel()
            raise

    def open(self, manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """*manager*, entered and left there, in one task."""
        return _There(self, self._portal, manager)


class _There(Generic[T]):
    """An async context manager, entered and left in the thread with the event loop."""

    def __init__(
        self, thread: LoopThread, portal: BlockingPortal, manager: AbstractAsyncContextManager[T]
    ) -> None:
        self._thread = thread
        self._portal = portal
        self._manager = manager

    def __enter__(self) -> T:
        self._thread.check()
        self._wrapped = self._portal.wrap_async_context_manager(self._manager)
        return self._wrapped.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if self._thread.forked:
            return None  # it is the parent's
        try:
            return self._wrapped.__exit__(kind, error, trace)
        except (RuntimeError, CancelledError):
            if self._thread.ended:  # and everything with it
                return None
            raise
