"""Asking a name server who is there: all that a cluster knows of its servers' protocol."""

from collections.abc import Mapping

from dledger_py.client.connection import open_connection, parse_address
from dledger_py.client.errors import ClientError
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body
from dledger_py.remoting.commands.routes import ClusterInfo
from dledger_py.remoting.commands.routing import GetClusterInfo

ASK_TIMEOUT_S = 1.0
"""A name server on this machine answers within a millisecond; a paused one must not hold us up."""


async def addresses_by_group(namesrv_address: str) -> Mapping[str, Mapping[int, str]]:
    """Each group's addresses by broker id, 0 being the leader; empty if nobody answers."""
    host, port = parse_address(namesrv_address)
    try:
        async with open_connection(host, port, connect_timeout_s=ASK_TIMEOUT_S) as connection:
            reply = await connection.call(GetClusterInfo(), timeout_s=ASK_TIMEOUT_S)
        groups = decode_body(ClusterInfo, reply.body).broker_addr_table
    except (ClientError, MalformedBody):
        return {}
    return {name: group.broker_addrs for name, group in groups.items()}
