"""What of an answer is the same whenever the same is asked: code, fields, kind of body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dledger_py.remoting.wire import properties
from dledger_py.remoting.wire.message import decode_records
from dledger_py.remoting.wire.schema import Malformed

NOTHING, MESSAGES, BYTES = "nothing", "messages", "bytes"


def shape(header: Mapping[str, Any], body: bytes) -> dict[str, object]:
    return {
        "code": header["code"],
        "fields": sorted(header.get("extFields") or {}),
        "body": body_shape(body),
    }


def body_shape(body: bytes) -> object:
    """The properties that all stored messages have, or the keys of a JSON object."""
    if not body:
        return NOTHING
    try:
        told = json.loads(body)
    except ValueError:
        pass
    else:
        return sorted(told) if isinstance(told, dict) else type(told).__name__
    try:
        found = decode_records(body)
    except Malformed:
        return BYTES
    common = set.intersection(*(set(properties.decode(each.properties)) for each in found))
    return {MESSAGES: sorted(common)}
