"""Checks that several rooms share: each returns what it looked up, or raises the refusal."""

from broker.errors import InvalidParameter, QueueNotFound, TopicNotFound
from broker.machine.machine import Machine
from broker.machine.topics import TopicConfig
from broker.serving.leadership import BORN_HOST
from dledger_py.remoting.rooms import Caller
from dledger_py.remoting.wire.message import pack_host


def known_topic(machine: Machine, name: str) -> TopicConfig:
    """The topic's settings. Raises: TopicNotFound."""
    topic = machine.topics.get(name)
    if topic is None:
        raise TopicNotFound(name)
    return topic


def known_queue(machine: Machine, name: str, queue_id: int) -> TopicConfig:
    """The settings of the topic that has this queue. Raises: TopicNotFound, QueueNotFound."""
    topic = known_topic(machine, name)
    if not 0 <= queue_id < topic.queues:
        raise QueueNotFound(name, queue_id, topic.queues)
    return topic


def client_host(caller: Caller) -> bytes:
    """Where a message came from, as records hold it; a forwarded one names its client.

    Raises: InvalidParameter.
    """
    forwarded = caller.frame.fields.get(BORN_HOST)
    if forwarded is not None:
        host, _, port = forwarded.rpartition(":")
        try:
            return pack_host(host, int(port))
        except ValueError as error:
            raise InvalidParameter(f"{BORN_HOST} {forwarded!r} is not host:port") from error
    return caller.connection.packed_remote
