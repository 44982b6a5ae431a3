"""One request waiting for its answer, under either event loop."""

import anyio
import pytest

from dledger_py.client import calls
from dledger_py.remoting.wire.frame import Frame
from tests.client.fake_servers import on_both_loops


@on_both_loops
async def test_an_answer_wakes_who_waits() -> None:
    kind, now = calls.of_this_loop()
    call = kind(now(), now() + 1)
    got: list[Frame] = []

    async def wait() -> None:
        got.append(await call.wait())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        call.answer(Frame(opaque=7))

    assert [frame.opaque for frame in got] == [7]


@on_both_loops
async def test_a_failure_is_raised_where_it_is_waited_for() -> None:
    kind, now = calls.of_this_loop()
    call = kind(now(), now() + 1)

    async def wait() -> None:
        with pytest.raises(LookupError, match="gone"):
            await call.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        call.fail(LookupError("gone"))


@on_both_loops
async def test_what_comes_for_a_cancelled_call_is_dropped() -> None:
    kind, now = calls.of_this_loop()
    ended: list[str] = []

    async def wait(call: calls.Call) -> None:
        try:
            await call.wait()
        except anyio.get_cancelled_exc_class():
            ended.append("cancelled")
            raise

    async with anyio.create_task_group() as tasks:
        answered, failed = kind(now(), now() + 1), kind(now(), now() + 1)
        tasks.start_soon(wait, answered)
        tasks.start_soon(wait, failed)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
        answered.answer(Frame())
        failed.fail(LookupError("gone"))

    assert ended == ["cancelled"] * 2


@on_both_loops
async def test_the_clock_is_the_loops() -> None:
    _, now = calls.of_this_loop()

    before, between, after = now(), anyio.current_time(), now()

    assert before <= between <= after
