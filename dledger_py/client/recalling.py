"""Taking back a message that was sent with a delay: what the broker says, and what is traced."""

from dledger_py.client.errors import ResponseError
from dledger_py.client.messages import Receipt
from dledger_py.client.queues import Queue
from dledger_py.client.sharing import Services
from dledger_py.remoting.commands.sending import RecallMessage


async def recall(receipt: Receipt, services: Services, timeout_s: float) -> None:
    """Ask the group that the message waits in. **Raises** as `Client.recall`."""
    if not isinstance(receipt, Receipt):
        raise TypeError(f"receipt {receipt!r}: what send returned is expected")
    if receipt.recall_handle is None:
        raise ValueError(f"message {receipt.message_id} was not sent with a delay")
    queue = Queue(receipt.topic, receipt.broker, receipt.queue_id)
    request = RecallMessage(topic=receipt.topic, recall_handle=receipt.recall_handle)
    try:
        await services.asker.ask(queue, request, timeout_s)
    except ResponseError:
        if services.tracer is not None:
            services.tracer.recalled(receipt, success=False)
        raise
    if services.tracer is not None:
        services.tracer.recalled(receipt, success=True)
