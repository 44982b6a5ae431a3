"""What a name server says about one topic, as values.  No I/O here; asking is in `routes`.

A route lists broker *groups*.  Unlike Java's producers this client also writes to a group that
shows no leader (id 0) at the moment: members forward writes, and an election is over before a
name server is asked again.
"""

from collections.abc import Mapping

from attrs import frozen

from dledger_py.client.queues import Queue
from dledger_py.remoting.commands.json_bodies import MalformedBody, decode_body
from dledger_py.remoting.commands.routes import TopicRoute as RouteBody

READABLE = 4
WRITABLE = 2
INHERITABLE = 1

LEADER_ID = 0

DEFAULT_TOPIC = "TBW102"
"""The template topic: its route is where a topic may be created on first use."""

DEFAULT_TOPIC_QUEUES = 4
"""How many queues a topic created on use gets at most; Java's, Go's and Node's clients say 4."""


@frozen
class BrokerGroup:
    """One replicated broker: its members' addresses by broker id, the leader's being 0."""

    name: str
    members: Mapping[int, str]

    @property
    def leader(self) -> str | None:
        """The leader's address, if one is registered."""
        return self.members.get(LEADER_ID)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All members, the leader first, then by broker id, none twice."""
        return tuple(dict.fromkeys(address for _, address in sorted(self.members.items())))


@frozen
class TopicRoute:
    """The brokers and queues of one topic at one moment."""

    topic: str
    groups: Mapping[str, BrokerGroup]
    write_queues: tuple[Queue, ...]
    read_queues: tuple[Queue, ...]
    inherited: bool = False
    """The route of the template topic, standing in for a topic nobody has created yet."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every member of every group."""
        return tuple(
            dict.fromkeys(address for group in self.groups.values() for address in group.addresses)
        )


def parse_route(topic: str, body: bytes) -> TopicRoute:
    """The route in a name server's answer.

    **Raises** ValueError if the body is not the JSON of a route.
    """
    try:
        found = decode_body(RouteBody, body)
    except MalformedBody as error:
        raise ValueError(f"the route of {topic!r} cannot be read: {error}") from error
    groups = {
        broker.broker_name: BrokerGroup(broker.broker_name, broker.broker_addrs)
        for broker in found.broker_datas
        if broker.broker_addrs
    }
    known = [queues for queues in found.queue_datas if queues.broker_name in groups]
    return TopicRoute(
        topic=topic,
        groups=groups,
        write_queues=_queues(
            topic, [(q.broker_name, q.write_queue_nums) for q in known if q.perm & WRITABLE]
        ),
        read_queues=_queues(
            topic, [(q.broker_name, q.read_queue_nums) for q in known if q.perm & READABLE]
        ),
    )


def inherit(topic: str, template: TopicRoute) -> TopicRoute:
    """The route *topic* will have once a broker of *template*'s route creates it on use."""
    counts = {
        name: min(DEFAULT_TOPIC_QUEUES, sum(queue.broker == name for queue in template.read_queues))
        for name in template.groups
    }
    queues = _queues(topic, list(counts.items()))
    return TopicRoute(
        topic=topic, groups=template.groups, write_queues=queues, read_queues=(), inherited=True
    )


def _queues(topic: str, counts: list[tuple[str, int]]) -> tuple[Queue, ...]:
    return tuple(
        Queue(topic, broker, number) for broker, count in sorted(counts) for number in range(count)
    )
