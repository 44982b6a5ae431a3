"""Background tasks that live exactly as long as a block of the user's code.

Two things differ from a plain task group.  Task groups wrap what their body raises in an
ExceptionGroup; here tasks run beside the *user's* code, and a user's ValueError should stay one.
And a cancellation from outside reaches the body only: its clean-up (committing offsets, leaving a
group) still needs the connections, so the tasks end when the block has ended, not before.  A bug in
one of our tasks still surfaces, as a group.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup


class Starter(Protocol):
    """What starts tasks: the one thing the client wants of a task group."""

    def start_soon(
        self, function: Callable[..., Awaitable[Any]], *arguments: Any, name: object = None
    ) -> Any:
        """Start *function* in a task of its own."""


class _Tasks:
    """Each task in a shield of its own."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._shields: dict[anyio.CancelScope, None] = {}
        self._ended = False

    def start_soon(
        self, function: Callable[..., Awaitable[Any]], *arguments: Any, name: object = None
    ) -> None:
        self._group.start_soon(self._run, function, arguments, name=name)

    def end(self) -> None:
        self._ended = True
        for shield in self._shields:
            shield.cancel()

    async def _run(
        self, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]
    ) -> None:
        with anyio.CancelScope(shield=True) as shield:
            if self._ended:
                return
            self._shields[shield] = None
            try:
                await function(*arguments)
            finally:
                del self._shields[shield]


@asynccontextmanager
async def open_tasks() -> AsyncIterator[Starter]:
    """Tasks that are cancelled when the block ends, however it ends."""
    group = anyio.create_task_group()
    await group.__aenter__()
    tasks = _Tasks(group)
    try:
        yield tasks
    finally:
        tasks.end()
        group.cancel_scope.cancel()
        await group.__aexit__(None, None, None)
