"""Checks that several rooms share: each returns what it looked up, or raises the refusal."""

from broker.errors import QueueNotFound, TopicNotFound
from broker.machine.machine import Machine
from broker.machine.topics import TopicConfig


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
