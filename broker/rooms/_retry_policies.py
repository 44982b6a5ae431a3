"""How long a consumer group waits before it tries a message again: its retry policy.

The policy is JSON of an operator, kept as it came. RocketMQ's brokers leave it to pop and to
proxies; here whoever asks the broker to choose gets what it says, and a group that has none gets
the levels of delay, from 10 s on, which is the same as RocketMQ's own policy.

    {"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1000,5000,10000]}}
    {"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":5000,"max":7200000,"multiplier":2}}

**Source**: RocketMQ's `CustomizedRetryPolicy.java`, `ExponentialRetryPolicy.java`,
`GroupRetryPolicy.java`.
"""

from functools import lru_cache
from typing import Any, Final

import msgspec
from attrs import frozen

from broker.errors import InvalidParameter

PAUSES_MAX: Final = 64  # RocketMQ's own list has 18; a policy has 1,024 characters anyhow
PAUSE_MS_MAX: Final = 40 * 86_400_000  # RocketMQ's furthest timer is three days
MULTIPLIER_MAX: Final = 1000

FIRST_PAUSE: Final = 2
"""The first retry takes the third pause of a list: there, levels 1 and 2 are for other uses."""

DOUBLINGS_MAX: Final = 32  # RocketMQ's; every policy has reached its longest pause by then

INITIAL_MS: Final = 5_000
MULTIPLIER: Final = 2
LONGEST_MS: Final = 7_200_000


@frozen
class Customized:
    """One pause after the other, the last for ever."""

    pauses_ms: tuple[int, ...]

    def pause_ms(self, retries: int) -> int:
        """How long to wait when there were so many retries before."""
        return self.pauses_ms[min(max(retries, 0) + FIRST_PAUSE, len(self.pauses_ms) - 1)]


@frozen
class Exponential:
    """Each pause a multiple of the one before, up to a longest one."""

    initial_ms: int
    multiplier: int
    longest_ms: int

    def pause_ms(self, retries: int) -> int:
        """How long to wait when there were so many retries before."""
        grown: int = self.multiplier ** min(max(retries, 0), DOUBLINGS_MAX)
        return min(self.longest_ms, self.initial_ms * grown)


Policy = Customized | Exponential


@lru_cache(maxsize=256)  # every retry asks, and groups differ little
def policy_of(text: str) -> Policy | None:
    """The policy that a group's JSON describes; None if it leaves pauses to the levels of delay.

    Raises: InvalidParameter.
    """
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidParameter(f"groupRetryPolicy cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InvalidParameter("groupRetryPolicy: an object is expected")
    match document.get("type", "CUSTOMIZED"):
        case "CUSTOMIZED":
            given = _object(document, "customizedRetryPolicy")
            return None if given is None else Customized(_pauses(given.get("next")))
        case "EXPONENTIAL":
            given = _object(document, "exponentialRetryPolicy")
            return None if given is None else _exponential(given)
        case kind:
            raise InvalidParameter(
                f"groupRetryPolicy: type {kind!r:.40} is neither CUSTOMIZED nor EXPONENTIAL"
            )


def kept_policy_of(text: str) -> Policy | None:
    """As `policy_of`, for one that may have been kept before policies were looked at: what cannot
    be read counts as none."""
    try:
        return policy_of(text)
    except InvalidParameter:
        return None


def _object(document: dict[str, Any], name: str) -> dict[str, Any] | None:
    found = document.get(name)
    if found is not None and not isinstance(found, dict):
        raise InvalidParameter(f"groupRetryPolicy: {name} is no object")
    return found


def _pauses(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or not 0 < len(given) <= PAUSES_MAX:
        raise InvalidParameter(
            f"groupRetryPolicy: next has to be a list of 1 to {PAUSES_MAX} pauses, in ms"
        )
    return tuple(_number("next", each, 0, PAUSE_MS_MAX) for each in given)


def _exponential(given: dict[str, Any]) -> Exponential:
    return Exponential(
        initial_ms=_number("initial", given.get("initial", INITIAL_MS), 0, PAUSE_MS_MAX),
        multiplier=_number("multiplier", given.get("multiplier", MULTIPLIER), 1, MULTIPLIER_MAX),
        longest_ms=_number("max", given.get("max", LONGEST_MS), 0, PAUSE_MS_MAX),
    )


def _number(name: str, value: Any, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise InvalidParameter(
            f"groupRetryPolicy: {name} {value!r:.40}, {least} to {most} are possible"
        )
    return value
