"""Who consumes what, decided by the broker: for consumers that leave sharing queues out to it.

A consumer that is refused goes on with what it has. The mode of a group, by pull or by pop, is set
by operators, for each topic.

Source: protocol pages 06 §10 and 08 §4; QueryAssignmentProcessor.java.
"""

from collections.abc import Mapping

from attrs import Factory, frozen

from dledger_py.remoting.commands.heartbeats import MessageModel
from dledger_py.remoting.commands.statistics import MessageQueue
from dledger_py.remoting.wire.codes import RequestCode
from dledger_py.remoting.wire.schema import Request


@frozen(kw_only=True)
class QueryAssignment(Request[None]):
    """Which queues are this client's; bodies: AssignmentQuestion, Assignments. Code 400."""

    code = RequestCode.QUERY_ASSIGNMENT


@frozen(kw_only=True)
class AssignmentQuestion:
    """Who asks, and by which strategy queues are shared out: AVG or AVG_BY_CIRCLE."""

    topic: str
    consumer_group: str
    client_id: str
    strategy_name: str = "AVG"
    message_model: MessageModel = MessageModel.CLUSTERING


@frozen(kw_only=True)
class Assignment:
    """One queue, and how to get its messages: `PULL` or `POP`; by pop, queue -1 stands for all that
    the broker has of the topic."""

    message_queue: MessageQueue
    mode: str = "PULL"


@frozen(kw_only=True)
class Assignments:
    """The client's queues; None if that cannot be told now, and the client keeps what it has."""

    message_queue_assignments: tuple[Assignment, ...] | None = None


@frozen(kw_only=True)
class SetRequestMode(Request[None]):
    """Let a group get the messages of a topic by pull or by pop; body: RequestMode. Code 401."""

    code = RequestCode.SET_MESSAGE_REQUEST_MODE


@frozen(kw_only=True)
class RequestMode:
    """A group's mode for one topic.

    By pop, a consumer also gets the queues of so many that come after it; with 0 or fewer, and
    where that would be all others, everybody gets every queue.
    """

    topic: str
    consumer_group: str
    mode: str = "PULL"
    pop_share_queue_num: int = 0


@frozen(kw_only=True)
class GetRequestModes(Request[None]):
    """Every mode that was set; body of the answer: RequestModes. Code 402."""

    code = RequestCode.GET_ALL_MESSAGE_REQUEST_MODE


@frozen(kw_only=True)
class RequestModes:
    """By topic, then by group."""

    message_request_mode_map: Mapping[str, Mapping[str, RequestMode]] = Factory(dict)
