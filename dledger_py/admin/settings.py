"""Settings of brokers that run, and transactions that expired: what leaders are told."""

from collections.abc import Mapping

from dledger_py.admin.admin import Admin
from dledger_py.admin.asking import leader_of, side_by_side
from dledger_py.admin.messages import place_of
from dledger_py.admin.records import UnknownName
from dledger_py.client.errors import MalformedAnswer
from dledger_py.remoting.commands.json_bodies import MalformedBody
from dledger_py.remoting.commands.operations import GetBrokerConfig, UpdateBrokerConfig
from dledger_py.remoting.commands.settings_text import decode_settings, encode_settings
from dledger_py.remoting.commands.transactions import ResumeCheck


async def of_brokers(
    admin: Admin, *, cluster: str | None = None, broker_address: str | None = None
) -> tuple[tuple[str, Mapping[str, str]], ...]:
    """(address, settings) of one broker, or of a cluster's leaders."""
    addresses = await admin.masters(cluster, broker_address)

    async def ask(address: str) -> tuple[str, Mapping[str, str]]:
        reply = await admin.ask(address, GetBrokerConfig())
        try:
            return address, decode_settings(reply.body)
        except MalformedBody as error:
            raise MalformedAnswer(address, str(error)) from error

    return await side_by_side(addresses, ask)


async def update(
    admin: Admin,
    changes: Mapping[str, str],
    *,
    cluster: str | None = None,
    broker_address: str | None = None,
) -> tuple[str, ...]:
    """Change settings of the members of one broker's group, or of every group of a cluster; who
    was told. **Raises** ResponseError: not all of them changed theirs."""
    return await admin.tell_masters(
        UpdateBrokerConfig(), cluster, broker_address, encode_settings(changes)
    )


async def resume_transaction(admin: Admin, message_id: str) -> str:
    """Have a producer asked again about a half message that expired; the broker that does.

    *message_id* is the offset message id of the copy in TRANS_CHECK_MAX_TIME_TOPIC.
    **Raises** UnknownName for another kind of id.
    """
    group, _position = await place_of(admin, message_id)
    if group is None:
        raise UnknownName(
            f"{message_id!r} is not the offset message id of a message on any registered broker"
        )
    address = leader_of(group)
    await admin.ask(address, ResumeCheck(msg_id=message_id))
    return address
