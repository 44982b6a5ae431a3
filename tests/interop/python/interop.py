"""The C++ client, unmodified, by way of its Python package, as a program that says what it saw.

What every program here prints, and how it is told to stop, is in ../README.md. The package is
`rocketmq` 0.4.4 from PyPI, which carries librocketmq; it offers neither requests nor transactions,
no SQL92, and does not tell in which queue a message was stored.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TAG = "interop"
PAUSE_AFTER_FAILURE_S = 0.5
"""As an application would, once the client's own retries are used up."""

NOT_TOLD = -1
EARLY_MS = 20
"""How early the clocks of two processes let a message be."""

LATE_MS = 1500
"""In time, where no leader is killed and the machine is busy."""

_OUTPUT = threading.Lock()


def say(event: str, **facts: object) -> None:
    line = json.dumps({"event": event, **facts})
    with _OUTPUT:
        print(line, flush=True)


class Wrong(Exception):
    """What a check found."""


class Seen:
    """Keys of messages and where they were; consumers run in threads of the C++ library."""

    def __init__(self) -> None:
        self.places: dict[str, set[tuple[int, int]]] = {}
        self.stored_ms: dict[str, int] = {}

    def take(self, message: Any) -> None:
        key = message.keys.decode()
        self.stored_ms[key] = message.store_timestamp
        self.places.setdefault(key, set()).add((message.queue_id, message.queue_offset))


class Program:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.end = time.monotonic() + options.deadline_s
        self.open: list[Any] = []

    # --- roles -----------------------------------------------------------------------------------

    def produce(self) -> int:
        producer = self.new_producer(self.options.group)
        say("ready")
        acked = number = 0
        while acked < self.options.count and time.monotonic() < self.end:
            key = f"{self.options.group}-{number:06d}"
            number += 1
            try:
                result = producer.send_sync(self.message(key, TAG))
                if result.status != rocketmq.SendStatus.OK:
                    raise Wrong(f"status {result.status}")
            except Exception as error:
                say("failed", key=key, error=repr(error))
                time.sleep(PAUSE_AFTER_FAILURE_S)
                continue
            acked += 1
            say("acked", key=key, broker="", queue=NOT_TOLD, offset=result.offset)
            time.sleep(self.options.interval_ms / 1000)
        say("done", acked=acked)
        return 0 if acked >= self.options.count else 1

    def consume(self) -> int:
        seen: set[str] = set()
        finished = threading.Event()

        def receive(message: Any) -> None:
            key, body = message.keys.decode(), message.body.decode()
            if body != f"body of {key}":
                say("error", error=f"{key} has the body {body}")
            say("received", key=key, queue=message.queue_id, offset=message.queue_offset)
            seen.add(key)
            if len(seen) == self.options.count:
                finished.set()

        self.consumer(self.options.group, receive, expression=TAG)
        say("ready")
        threading.Thread(target=lambda: (sys.stdin.read(), finished.set()), daemon=True).start()
        complete = finished.wait(self.options.deadline_s)
        say("done", seen=len(seen))
        return 0 if complete else 1

    def check(self) -> int:
        getattr(self, "check_" + self.options.check.replace("-", "_"))()
        say("done")
        return 0

    # --- checks ----------------------------------------------------------------------------------

    def check_sends(self) -> None:
        """Synchronous, asynchronous, one way, in batches: all of it arrives."""
        producer = self.new_producer()
        sent = {self.send(producer, "sync")}
        self.halfway()
        answers: list[tuple[str, bool]] = []
        for number in range(10):
            key = f"async-{number}"
            self.retrying(
                lambda key=key: producer.send_async(
                    self.message(key),
                    lambda result, key=key: answers.append((key, True)),
                    lambda error, key=key: answers.append((key, False)),
                )
            )
        self.wait(lambda: len(answers) == 10, lambda: f"answers: {answers}")
        sent |= {key for key, good in answers if good}
        if len(sent) != 11 and not self.options.failover:
            raise Wrong(f"answered: {answers}")
        batch = [self.message(f"batch-{number}") for number in range(10)]
        self.retrying(lambda: producer.send_batch(batch))
        sent |= {f"batch-{number}" for number in range(10)}
        if not self.options.failover:
            producer.send_oneway(self.message("one-way"))
            sent.add("one-way")
        seen = Seen()
        self.consumer(self.group("sends"), seen.take)
        self.wait_seen(seen, sent)

    def check_delay(self) -> None:
        """By level: each once, not before its time, and soon after it."""
        seen = Seen()
        self.consumer(self.group("delay"), seen.take)
        producer = self.new_producer()
        due: dict[str, float] = {}
        for number in range(10):
            key = f"delay-{number}"
            due[key] = time.time() * 1000 + 5000
            self.send(producer, key, level=2)
        self.halfway()
        self.wait_seen(seen, set(due))
        for key, at in due.items():
            if len(seen.places[key]) != 1 and not self.options.failover:
                raise Wrong(f"{key} at {seen.places[key]}")
            late = seen.stored_ms[key] - at
            if late < -EARLY_MS or (late > LATE_MS and not self.options.failover):
                raise Wrong(f"{key} came {late:.0f} ms after its time")

    def check_retry(self) -> None:
        """A message that fails comes again, ten seconds later. The number of times is fixed, so
        that nothing is a dead letter within an hour."""
        times: dict[str, int] = {}

        def receive(message: Any) -> None:
            key = message.keys.decode()
            times[key] = max(times.get(key, 0), message.reconsume_times)
            if key == "bad" and message.reconsume_times == 0:
                raise Wrong("asked for again")

        self.consumer(self.group("retry"), receive)
        producer = self.new_producer()
        for key in ("good", "bad"):
            self.send(producer, key)
        self.wait(lambda: len(times) == 2, lambda: f"seen {times}")
        self.halfway()
        self.wait(lambda: times["bad"] == 1, lambda: f"came again: {times}")
        if times["good"] != 0:
            raise Wrong("a good message came again")

    def check_orderly(self) -> None:
        """Each message of a key after the one before it."""
        last: dict[str, int] = {}
        wrong: list[str] = []
        mutex = threading.Lock()

        def receive(message: Any) -> None:
            key, _, text = message.keys.decode().partition("-")
            with mutex:
                before = last.get(key, -1)
                if int(text) > before + 1:
                    wrong.append(f"{message.keys} after {before}")
                last[key] = max(before, int(text))

        self.consumer(self.group("orderly"), receive, orderly=True)
        producer = self.new_producer()
        each, keys = 40, 8
        for number in range(each):
            if number == each // 2:
                self.halfway()
            for key in range(keys):
                name = f"k{key}-{number}"
                # Tried again until it is acknowledged, or the next would come before it.
                self.retrying(
                    lambda name=name, key=key: producer.send_orderly(self.message(name), key)
                )
        complete = {f"k{key}": each - 1 for key in range(keys)}
        self.wait(lambda: last == complete, lambda: f"came as far as {last}")
        if wrong:
            raise Wrong(f"out of order: {wrong}")

    def check_broadcast(self) -> None:
        """Every consumer of the group gets every message."""
        all_seen = [Seen(), Seen()]
        for number, seen in enumerate(all_seen):
            self.consumer(
                self.group("broadcast"), seen.take, broadcast=True, instance=f"instance-{number}"
            )
        producer = self.new_producer()
        sent = set()
        for number in range(20):
            if number == 10:
                self.halfway()
            sent.add(self.send(producer, f"broadcast-{number}"))
        for seen in all_seen:
            self.wait_seen(seen, sent)

    def check_tags(self) -> None:
        """Of several tags, those that were asked for."""
        seen = Seen()
        self.consumer(self.group("tags"), seen.take, expression="red || blue")
        producer = self.new_producer()
        wanted = set()
        for number, tag in enumerate(["red", "green", "blue", "green", "red"]):
            if number == 2:
                self.halfway()
            key = self.send(producer, f"{tag}-{number}", tag=tag)
            if tag != "green":
                wanted.add(key)
        self.wait_seen(seen, wanted)
        if set(seen.places) != wanted:
            raise Wrong(f"seen {sorted(seen.places)}")

    def check_pull(self) -> None:
        """A consumer that names queue and offset."""
        producer = self.new_producer()
        sent = {self.send(producer, f"pull-{number}") for number in range(20)}
        consumer = rocketmq.PullConsumer(self.group("pull"))
        consumer.set_namesrv_addr(self.options.namesrv)
        consumer.start()
        self.open.append(consumer)
        self.halfway()
        seen = Seen()

        def pull_all() -> None:
            for message in consumer.pull(self.options.topic, max_num=3):
                seen.take(message)
            if set(seen.places) != sent:
                raise Wrong(f"seen {sorted(seen.places)}")

        self.retrying(pull_all)

    # --- pieces ----------------------------------------------------------------------------------

    def halfway(self) -> None:
        say("halfway")
        if self.options.failover:
            sys.stdin.readline()  # the leader is dead

    def group(self, check: str) -> str:
        return f"{self.options.topic}-{check}"

    def message(self, key: str, tag: str = "tag", level: int = 0) -> Any:
        message = rocketmq.Message(self.options.topic)
        message.set_keys(key)
        message.set_tags(tag)
        message.set_body(f"body of {key}")
        if level:
            message.set_delay_time_level(level)
        return message

    def new_producer(self, group: str | None = None) -> Any:
        producer = rocketmq.Producer(group or self.group("producer"))
        producer.set_namesrv_addr(self.options.namesrv)
        producer.start()
        self.open.append(producer)
        return producer

    def consumer(
        self,
        group: str,
        receive: Callable[[Any], None],
        *,
        expression: str = "*",
        orderly: bool = False,
        broadcast: bool = False,
        instance: str | None = None,
    ) -> None:
        model = rocketmq.MessageModel
        consumer = rocketmq.PushConsumer(
            group, orderly, model.BROADCASTING if broadcast else model.CLUSTERING
        )
        consumer.set_namesrv_addr(self.options.namesrv)
        if instance is not None:
            consumer.set_instance_name(instance)
        consumer.subscribe(self.options.topic, receive, expression)
        consumer.start()
        self.open.append(consumer)

    def send(self, producer: Any, key: str, tag: str = "tag", level: int = 0) -> str:
        def once() -> None:
            result = producer.send_sync(self.message(key, tag, level))
            if result.status != rocketmq.SendStatus.OK:
                raise Wrong(f"status {result.status}")

        self.retrying(once)
        return key

    def retrying(self, action: Callable[[], object]) -> None:
        """As an application would: once, or again and again while a leader is missed."""
        while True:
            try:
                action()
                return
            except Exception:
                if not self.options.failover or time.monotonic() > self.end:
                    raise
                time.sleep(0.2)

    def wait_seen(self, seen: Seen, keys: set[str]) -> None:
        self.wait(lambda: keys <= set(seen.places), lambda: f"seen {sorted(seen.places)}")

    def wait(self, condition: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        while not condition():
            if time.monotonic() > self.end:
                raise Wrong(otherwise())
            time.sleep(0.02)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["producer", "consumer", "check"])
    for name in ("namesrv", "topic", "group", "log", "check", "broker"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--failover", type=lambda text: text == "true", default=False)
    for name, default in {"count": 0, "interval-ms": 0, "deadline-s": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> int:
    program = Program(options())
    roles = {
        "producer": program.produce,
        "consumer": program.consume,
        "check": program.check,
    }
    try:
        code = roles[program.options.role]()
    except Exception as error:
        say("error", error=str(error))
        code = 1
    for each in reversed(program.open):
        each.shutdown()
    return code


if __name__ == "__main__":
    log = options().log
    if log is not None:
        os.environ["HOME"] = str(Path(log).parent)  # the library writes its log below it
    import rocketmq.client as rocketmq

    code = main()
    sys.stdout.flush()
    os._exit(code)  # the library leaves threads behind
