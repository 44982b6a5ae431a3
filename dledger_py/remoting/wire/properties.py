"""A message's properties: `key 0x01 value 0x02`, repeated, as one string.

Reading follows Java: a missing last 0x02 is tolerated, the key ends at the first 0x01, pairs with
an empty key or value are dropped, the last of equal keys wins.
Source: MessageDecoder.string2messageProperties, MessageConst.

The names are those somebody of ours reads or writes. Which of them a producer may set, and
what the broker adds, is decided by its rooms.
"""

from collections.abc import Mapping
from typing import Final

KEYS: Final = "KEYS"
TAGS: Final = "TAGS"
WAIT: Final = "WAIT"
DELAY: Final = "DELAY"
TIMER_DELAY_SEC: Final = "TIMER_DELAY_SEC"
TIMER_DELAY_MS: Final = "TIMER_DELAY_MS"
TIMER_DELIVER_MS: Final = "TIMER_DELIVER_MS"
TIMER_OUT_MS: Final = "TIMER_OUT_MS"
UNIQ_KEY: Final = "UNIQ_KEY"
RETRY_TOPIC: Final = "RETRY_TOPIC"
ORIGIN_MESSAGE_ID: Final = "ORIGIN_MESSAGE_ID"
RECONSUME_TIME: Final = "RECONSUME_TIME"
MAX_RECONSUME_TIMES: Final = "MAX_RECONSUME_TIMES"
REAL_TOPIC: Final = "REAL_TOPIC"
REAL_QUEUE_ID: Final = "REAL_QID"
TRANSACTION_PREPARED: Final = "TRAN_MSG"
PRODUCER_GROUP: Final = "PGROUP"
TRANSACTION_ID: Final = "__transactionId__"
CHECK_IMMUNITY_TIME_S: Final = "CHECK_IMMUNITY_TIME_IN_SECONDS"
TRANSACTION_CHECK_TIMES: Final = "TRANSACTION_CHECK_TIMES"
MIN_OFFSET: Final = "MIN_OFFSET"
MAX_OFFSET: Final = "MAX_OFFSET"
CONSUME_START_TIME: Final = "CONSUME_START_TIME"
MSG_REGION: Final = "MSG_REGION"
TRACE_ON: Final = "TRACE_ON"
CLUSTER: Final = "CLUSTER"
CORRELATION_ID: Final = "CORRELATION_ID"
REPLY_TO_CLIENT: Final = "REPLY_TO_CLIENT"
TTL: Final = "TTL"
MSG_TYPE: Final = "MSG_TYPE"
PUSH_REPLY_TIME: Final = "PUSH_REPLY_TIME"
POP_CK: Final = "POP_CK"
FIRST_POP_TIME: Final = "1ST_POP_TIME"
SHARDING_KEY: Final = "__SHARDINGKEY"

# The record gives their length as a signed 16-bit number.
PROPERTIES_SIZE_MAX: Final = 32767

KEY_SEPARATOR: Final = " "  # between the words of KEYS

_KEY_END: Final = "\x01"
_PAIR_END: Final = "\x02"


def decode(text: str) -> dict[str, str]:
    """All properties."""
    pairs = (piece.partition(_KEY_END) for piece in text.split(_PAIR_END))
    return {key: value for key, _, value in pairs if key and value}


def encode(properties: Mapping[str, str]) -> str:
    """The string for `properties`; empty keys and values are left out, nobody would read them.

    Raises: ValueError for a key or value that holds one of the two separators.
    """
    pieces = []
    for key, value in properties.items():
        if _PAIR_END in key or _PAIR_END in value or _KEY_END in key:
            raise ValueError(f"property {key!r}: 0x01 and 0x02 separate properties")
        if key and value:
            pieces.append(f"{key}{_KEY_END}{value}{_PAIR_END}")
    return "".join(pieces)


def append(text: str, key: str, value: str) -> str:
    """`text` with one more property at its end; an older one of that key loses."""
    if text and not text.endswith(_PAIR_END):
        text += _PAIR_END
    return f"{text}{key}{_KEY_END}{value}{_PAIR_END}"


def find(text: str, key: str) -> str | None:
    """One property without reading the others (0.2 µs against 1 µs for five)."""
    at = text.rfind(f"{_PAIR_END}{key}{_KEY_END}")
    if at >= 0:
        start = at + len(key) + 2
    elif text.startswith(f"{key}{_KEY_END}"):
        start = len(key) + 1
    else:
        return None
    end = text.find(_PAIR_END, start)
    value = text[start:] if end < 0 else text[start:end]
    # An empty value counts as absent, so an older one of the same key would show again.
    return value or decode(text).get(key)
