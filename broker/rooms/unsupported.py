"""Requests RocketMQ's brokers know and this one does not answer yet: refused by name.

The code is the same as for a number nobody knows; the remark tells an operator that it is the
broker that lacks something, not the request.

`docs/compatibility.md` lists these and the codes that are served.
"""

from collections.abc import Mapping
from typing import Any, Final, Never

from broker.errors import NotSupported
from dledger_py.remoting.rooms import Caller, Route, Routes
from dledger_py.remoting.wire.schema import Request

_ACL: Final = "managing users and access rules"

UNSUPPORTED: Final[Mapping[int, str]] = {
    353: "forbidding a group one topic (UPDATE_AND_GET_GROUP_FORBIDDEN)",
    513: "static topics (UPDATE_AND_CREATE_STATIC_TOPIC)",
    **dict.fromkeys(range(3001, 3011), _ACL),
}


def with_refusals(routes: Routes) -> Routes:
    """The routes, and one that refuses for each code above. Raises: TypeError if one is served."""
    served = UNSUPPORTED.keys() & routes.by_code.keys()
    if served:
        raise TypeError(f"codes {sorted(served)} are served, and listed as unsupported")
    refusals = {
        # The fields are not read: whatever they are, the answer is the same.
        code: Route(Request, lambda fields: None, _refuse(what), False)
        for code, what in UNSUPPORTED.items()
    }
    return Routes({**routes.by_code, **refusals}, routes.quick)


def _refuse(what: str) -> Any:
    def refuse(_request: None, _caller: Caller) -> Never:
        raise NotSupported(what)

    return refuse
