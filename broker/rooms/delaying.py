"""What a message asks for that is not to be delivered at once: a level of delay, or a time.

The first of these properties that says anything decides: `DELAY`, a level; `TIMER_DELAY_SEC`,
`TIMER_DELAY_MS`, from now on; `TIMER_DELIVER_MS`, a time in ms since 1970. What lies in the past is
delivered at once.

Beyond RocketMQ: times are kept to the millisecond (there: to the second), and may lie a century
ahead (there: three days).

**Source**: protocol page 08 §2, 3 and 5; RocketMQ's `HookUtils.java`, `RecallMessageHandle.java`.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from broker.errors import IllegalMessage, IllegalOperation
from broker.machine import names
from broker.machine.timer_wheel import FURTHEST_MS, LEVELS_MS, Waiting, at_level, until
from dledger_py.remoting.wire import properties as props

DELAYS: Final = (
    (props.TIMER_DELAY_SEC, 1000, False),
    (props.TIMER_DELAY_MS, 1, False),
    (props.TIMER_DELIVER_MS, 1, True),
)
"""(property, milliseconds of its unit, whether it is a time and not a span)."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_LEVEL = re.compile(r"[+]?[0-9]{1,9}", re.ASCII)

HANDLE_VERSION: Final = "v1"
HANDLE_CHARACTERS_MAX: Final = 2048


@frozen(kw_only=True)
class Delay:
    """What is to become of a message that is for later."""

    waiting: Waiting
    added: Mapping[str, str]
    """Properties that tell what it asked for."""
    deliver_ms: int | None
    """Its time, if it has one of its own: then it may be recalled."""


def delay_of(properties: Mapping[str, str], now_ms: int) -> Delay | None:
    """None for a message to be delivered at once. **Raises** `IllegalMessage`."""
    level = level_of(properties)
    if level:
        added = {props.DELAY: str(len(LEVELS_MS))} if level > len(LEVELS_MS) else {}
        return Delay(waiting=at_level(level, now_ms), added=added, deliver_ms=None)
    for key, unit_ms, is_time in DELAYS:
        text = properties.get(key)
        if text is None:
            continue
        if not _NUMBER.fullmatch(text):
            raise IllegalMessage(f"property {key} is {text[:40]!r}, a whole number is expected")
        deliver_ms = int(text) * unit_ms + (0 if is_time else now_ms)
        if deliver_ms - now_ms > FURTHEST_MS:
            raise IllegalMessage(
                f"property {key} is {text}: at most {FURTHEST_MS} ms ahead are possible"
            )
        if deliver_ms <= now_ms:
            return None
        return Delay(
            waiting=until(deliver_ms, now_ms),
            added={props.TIMER_OUT_MS: str(deliver_ms)},
            deliver_ms=deliver_ms,
        )
    return None


def delay_for(topic: str, properties: Mapping[str, str], now_ms: int) -> Delay | None:
    """The same for a message to this topic: what was given up is not for later, and what is tried
    again heeds levels only. **Raises** `IllegalMessage`."""
    if names.is_dead_letter_topic(topic):
        return None
    if names.is_retry_topic(topic):
        # Its own time came when it was first delivered; what it says now is when to try again.
        properties = {k: v for k, v in properties.items() if not k.startswith("TIMER_")}
    return delay_of(properties, now_ms)


def level_of(properties: Mapping[str, str]) -> int:
    """The level of delay that a message asks for; 0 for none. What is no number is none."""
    text = properties.get(props.DELAY, "")
    return int(text) if _LEVEL.fullmatch(text) else 0


@frozen(kw_only=True)
class RecallHandle:
    """What the sender of a timed message is given, to take it back by."""

    topic: str
    broker_name: str
    deliver_ms: int
    unique_id: str

    def encode(self) -> str:
        """Base64 of words."""
        words = (
            HANDLE_VERSION,
            self.topic,
            self.broker_name,
            str(self.deliver_ms),
            self.unique_id,
        )
        return base64.urlsafe_b64encode(" ".join(words).encode()).decode()


def decode_handle(text: str) -> RecallHandle:
    """The inverse of `encode`. **Raises** `IllegalOperation`."""
    if len(text) > HANDLE_CHARACTERS_MAX:
        raise IllegalOperation(f"a recall handle of {len(text)} characters is none of ours")
    try:
        words = base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode().split(" ")
    except (binascii.Error, ValueError) as error:
        raise IllegalOperation(f"recall handle {text[:60]!r}: {error}") from error
    if len(words) != 5 or words[0] != HANDLE_VERSION or not _NUMBER.fullmatch(words[3]):
        raise IllegalOperation(f"recall handle {text[:60]!r} is none of ours")
    return RecallHandle(
        topic=words[1], broker_name=words[2], deliver_ms=int(words[3]), unique_id=words[4]
    )
