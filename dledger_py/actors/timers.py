"""Timers that arrive as messages, so that an actor handles the clock in the same loop as everything
else.

Both are plain async functions for the actor's own nursery: `nursery.start_soon(every, 0.02,
inbox.ref, Tick())`. They end with that nursery and hold no state anyone needs to cancel.
"""

from __future__ import annotations

import math
from typing import TypeVar

import trio

from dledger_py.actors.actors import ActorDown, Call, Ref

M = TypeVar("M")


async def every(period_s: float, ref: Ref[M], message: M) -> None:
    """Send `message` each `period_s` seconds, for ever, without drift.

    A tick that finds the mailbox full or the actor down is left out, and after a pause of the loop
    the missed ticks are not made up for: a late tick says nothing that the next one does not.
    """
    assert period_s > 0
    assert not isinstance(message, Call), "a question can be asked only once"
    due = trio.current_time()
    while True:
        late_s = trio.current_time() - due
        due += period_s * max(1, math.ceil(late_s / period_s))
        await trio.sleep_until(due)
        try:
            ref.tell_nowait(message)
        except (trio.WouldBlock, ActorDown):
            continue


async def after(delay_s: float, ref: Ref[M], message: M) -> None:
    """Send `message` once, `delay_s` seconds from now, waiting for room. An actor that is down by
    then gets nothing.
    """
    await trio.sleep(delay_s)
    try:
        await ref.tell(message)
    except ActorDown:
        return
