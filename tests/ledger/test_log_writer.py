"""Who writes the log when: the thread, which can wait for the disk, or the loop, where it is quick.

The thread here is a chain of calls: it does something when the test says so.
"""

import errno
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import trio
from attrs import define, field

from dledger_py.actors import FailStop
from dledger_py.ledger import log_writer
from dledger_py.ledger.log_writer import (
    HINT_S,
    NEAR_BYTES,
    QUICK_GROUPS,
    QUICK_S,
    SEAL_IDLE_S,
    Drop,
    LogWriter,
    Write,
)
from dledger_py.storage import Identity, recover
from dledger_py.storage.formats import KIND_COMMAND
from dledger_py.storage.lying import LyingFiles
from tests.storage.log_scenes import Entry

SEGMENT_BYTES = 4 << 20
FLUSH_S = 0.5


@define(eq=False, slots=False)
class Thread:
    """Does one thing after another, each when `step` says so."""

    now_s: float = 0.0
    disk_s: float = 0.0
    """What each look at the clock takes."""
    quick: bool = True
    queue: deque[Any] = field(factory=deque)
    wait_s: float | None = None
    ended: bool = False
    _work: Any = None

    # --- runtime.host.Host, as far as it is asked

    def monotonic_s(self) -> float:
        self.now_s += self.disk_s
        return self.now_s

    def disk_is_quick(self) -> bool:
        return self.quick

    def worker(self, name: str) -> "Thread":
        return self

    # --- runtime.host.Worker

    def put(self, item: Any) -> None:
        self.queue.append(item)

    def start(self, work: Any) -> None:
        self._work = work
        self.wait_s = next(work)

    def take_nowait(self) -> Any:
        return self.queue.popleft() if self.queue else None

    def call_soon(self, fn: Callable[..., object], *args: Any) -> None:
        fn(*args)

    # --- the test's

    def step(self) -> None:
        """Take what is queued, or see that nothing came in time."""
        try:
            if self.queue:
                self.wait_s = self._work.send(self.queue.popleft())
            else:
                assert self.wait_s is not None, "it waits for ever"
                self.now_s += self.wait_s
                self.wait_s = self._work.send(None)
        except StopIteration:
            self.ended = True


@define(eq=False, slots=False)
class Scene:
    """A writer between a list of reports and a lying disk."""

    sync: bool = True
    near: bool = True
    thread: Thread = field(factory=Thread)
    files: LyingFiles = field(factory=lambda: LyingFiles(seed="writer"))
    durable: list[int] = field(factory=list)
    numbers: int = 0

    def __attrs_post_init__(self) -> None:
        who = Identity(cluster="c", group="g", member="n0")
        self.opened = recover(self.files, "data", who, SEGMENT_BYTES)
        self.log = self.opened.log
        self.writer = LogWriter(
            self.log,
            self.opened.hard_state_file,
            sync=self.sync,
            async_flush_s=FLUSH_S,
            on_durable=self.durable.append,
            commit_hint=lambda: self.log.last_index,
            host=self.thread,
            near=self.near,
        )
        self.thread.start(self.writer._work())

    def write(self, size: int = 100, **more: Any) -> Write:
        index = self.log.last_index + 1
        batch = self.log.seal([Entry(index, 1, KIND_COMMAND, bytes(size))])
        self.numbers += 1
        return Write(self.numbers, more.get("hard"), more.get("cut"), batch)

    def submit(self, size: int = 100, **more: Any) -> bool:
        """Whether it was durable at once."""
        self.writer.submit([self.write(size, **more)])
        return self.durable[-1:] == [self.numbers]

    def work_off(self) -> None:
        while self.thread.queue:
            self.thread.step()

    def learn(self) -> None:
        """Let the disk be found quick."""
        for _ in range(QUICK_GROUPS):
            assert not self.submit()
            self.work_off()
        assert self.durable[-1] == self.numbers

    @property
    def near_groups(self) -> int:
        return self.writer.statistics().near


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    scene.learn()
    return scene


def test_a_disk_that_was_quick_often_enough_is_written_by_the_loop(scene) -> None:
    assert scene.submit()
    assert 1 == scene.near_groups
    assert scene.log.durable_index == scene.log.last_index
    assert QUICK_GROUPS + 1 == scene.writer.statistics().groups
    assert 0 == scene.writer.statistics().waiting


def test_not_where_several_logs_share_the_loop() -> None:
    scene = Scene(near=False)
    scene.learn()
    assert not scene.submit()


def test_not_where_the_machine_says_so(scene) -> None:
    scene.thread.quick = False
    assert not scene.submit()


def test_a_write_that_takes_a_little_longer_does_not_count_for_much(scene) -> None:
    scene.thread.disk_s = 10 * QUICK_S
    assert scene.submit()
    scene.thread.disk_s = 0.0
    assert scene.submit()


def test_a_disk_that_stalls_holds_up_the_loop_once(scene) -> None:
    stall(scene)
    assert scene.submit()
    scene.thread.disk_s = 0.0
    scene.learn()
    assert scene.submit()


def test_a_stall_in_the_thread_counts_too(scene) -> None:
    scene.thread.quick = False
    stall(scene)
    scene.submit()
    scene.work_off()
    scene.thread.quick, scene.thread.disk_s = True, 0.0
    scene.learn()
    assert scene.submit()


def stall(scene: Scene) -> None:
    """So long that it takes as many quick groups as there were to forget it."""
    scene.thread.disk_s = 2.7 * QUICK_GROUPS * QUICK_S


def test_a_disk_that_is_never_quick_is_left_to_the_thread() -> None:
    scene = Scene()
    scene.thread.disk_s = 1.01 * QUICK_S
    scene.learn()
    scene.learn()
    assert not scene.submit()


def test_nothing_overtakes_what_is_queued(scene) -> None:
    scene.thread.quick = False
    first = scene.write()
    scene.writer.submit([first])
    scene.thread.quick = True
    assert not scene.submit()
    assert scene.durable[-1] == first.number - 1
    scene.work_off()
    assert scene.durable[-1] == first.number + 1
    assert scene.submit()


def test_the_thread_is_not_disturbed_while_it_uses_the_files(scene) -> None:
    with scene.writer._lock:
        assert not scene.submit()
    scene.work_off()
    assert scene.durable[-1] == scene.numbers


def test_terms_votes_and_cuts_are_for_the_thread(scene) -> None:
    assert not scene.submit(hard=(2, "n1", 0))
    scene.work_off()
    cut = scene.log.cut(scene.log.last_index)
    assert not scene.submit(cut=cut)
    scene.work_off()
    assert scene.submit()
    scene.numbers += 1
    scene.writer.submit([Write(scene.numbers, (3, None, 0), None, None)])
    assert scene.durable[-1] == scene.numbers - 1


def test_much_at_once_is_for_the_thread(scene) -> None:
    assert scene.submit(NEAR_BYTES - 1000)
    assert not scene.submit(NEAR_BYTES + 1)


def test_the_next_segment_is_begun_by_the_thread(scene) -> None:
    while scene.submit(200_000):
        pass
    assert SEGMENT_BYTES < scene.log.statistics().end_position < SEGMENT_BYTES + 400_000
    assert 1 == scene.log.statistics().segments
    scene.work_off()
    assert 2 == scene.log.statistics().segments
    assert scene.submit()


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
async def test_a_failure_in_the_loop_is_final(operation) -> None:
    scene = Scene()
    scene.learn()
    scene.files.fail(operation, errno.EIO)
    assert not scene.submit()
    written = scene.log.statistics().written_position
    scene.work_off()
    assert scene.thread.ended
    assert not scene.submit()
    assert written == scene.log.statistics().written_position
    assert scene.durable[-1] == scene.numbers - 2
    with pytest.raises(FailStop, match=r"writing data/.*log failed: Input/output error"):
        await run_to_the_end(scene)


async def test_the_first_failure_is_the_one_that_is_told(scene) -> None:
    scene.writer.drop(Drop(1, (0, b""), print))
    scene.files.fail("pwrite", errno.ENOSPC)
    assert not scene.submit()
    scene.work_off()
    assert scene.thread.ended
    with pytest.raises(FailStop, match="No space left"):
        await run_to_the_end(scene)


async def run_to_the_end(scene: Scene) -> None:
    """What its actor says once the thread has ended."""

    class Closed:
        def ready(self) -> None:
            pass

        async def wait_closed(self) -> None:
            await trio.sleep_forever()

    scene.thread.start = lambda work: None
    await scene.writer.run(Closed())


def test_the_thread_attests_what_the_loop_wrote_once_there_is_silence(scene) -> None:
    for _ in range(3):
        assert scene.submit()
    statistics = scene.log.statistics
    scene.work_off()
    assert scene.thread.wait_s == SEAL_IDLE_S
    assert statistics().attested_position < statistics().end_position
    assert scene.submit()
    scene.thread.step()  # this was no silence
    assert statistics().attested_position < statistics().end_position
    scene.thread.step()
    assert statistics().attested_position == statistics().end_position
    assert scene.submit()
    assert 1 == len(scene.thread.queue), "the thread sleeps, and must be told again"


def test_the_thread_writes_the_commit_index_down_behind_the_loop(scene) -> None:
    assert scene.submit()
    scene.work_off()
    before = scene.opened.hard_state_file.load().commit
    for _ in range(round(HINT_S / SEAL_IDLE_S) + 2):
        assert scene.submit()
        scene.thread.step()
    assert scene.opened.hard_state_file.load().commit > before


def test_the_thread_syncs_behind_the_loop_where_nobody_waits_for_it() -> None:
    scene = Scene(sync=False)
    scene.learn()
    scene.work_off()
    while scene.log.durable_index < scene.log.last_index:
        scene.thread.step()
    assert scene.submit()
    first = scene.log.last_index
    scene.work_off()
    steps = 0
    while scene.log.durable_index < first:
        assert scene.submit()  # never silent, so that nothing is sealed
        scene.thread.step()
        steps += 1
    assert steps <= FLUSH_S / SEAL_IDLE_S + 2
    for _ in range(20):  # and on and on
        assert scene.submit()
        scene.thread.step()
    assert scene.log.last_index - scene.log.durable_index <= FLUSH_S / SEAL_IDLE_S + 2


def test_the_end_leaves_everything_attested(scene) -> None:
    assert scene.submit()
    scene.thread.put(log_writer._END)
    scene.work_off()
    assert scene.thread.ended
    statistics = scene.log.statistics()
    assert statistics.attested_position == statistics.end_position
