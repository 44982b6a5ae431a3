"""No async: a script that sends, and four threads that consume.

    python examples/sync.py [host:port]

The address is a name server's; without one it is 127.0.0.1:9876.
"""

import os
import sys
import threading
import uuid

from dledger_py.client import ClientError
from dledger_py.client.sync import Consumer, connect

TOPIC = "Pictures"
PICTURES = 100


def work(name: str, messages: Consumer, handled: dict[str, str]) -> None:
    while len(handled) < PICTURES:
        message = messages.receive(timeout_s=0.2)
        if message is not None:
            with message.ack_on_success():
                handled[message.keys[0]] = name


def main(address: str) -> None:
    run = uuid.uuid4().hex[:6]
    with connect(address) as mq:
        for number in range(PICTURES):
            mq.send(TOPIC, b"...", tag=run, keys=[f"{run}-{number}"])
        print(f"sent {PICTURES} messages")
        handled: dict[str, str] = {}
        with mq.consumer(f"thumbnails-{run}", {TOPIC: run}, from_="first") as messages:
            threads = [
                threading.Thread(target=work, args=(f"thread {number}", messages, handled))
                for number in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        print({name: list(handled.values()).count(name) for name in sorted(set(handled.values()))})
    assert len(handled) == PICTURES, len(handled)
    try:
        mq.send(TOPIC, b"late")
    except ClientError as error:
        print(f"after the block: {error}")
    print("done: every message was handled by a thread")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("NAMESRV_ADDR", "127.0.0.1:9876"))
