"""A task group whose body's exceptions reach the caller as they are.

Task groups wrap what their body raises in an ExceptionGroup.  The context managers of this
package run tasks of their own beside the *user's* code, and a user's ValueError should stay one.
So the group is closed as if the body had ended well, and the body's exception then goes on
alone.  A bug in one of our tasks still surfaces, as a group.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def open_tasks() -> AsyncIterator[TaskGroup]:
    """A task group that is cancelled when its block ends, however it ends."""
    group = anyio.create_task_group()
    await group.__aenter__()
    try:
        yield group
    finally:
        group.cancel_scope.cancel()
        await group.__aexit__(None, None, None)
