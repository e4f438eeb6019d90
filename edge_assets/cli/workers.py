"""Builds of several families at once, in processes of their own: for what is not being timed.

Each worker keeps to its share of the cores, so that the threads of two do not wait for each other; the last ones get
those of the workers that are done. What a worker has to say and what it finished comes back as events while it works.
"""

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.queues import Queue
from typing import TypeAlias

import psutil

from edge_assets.cli.interruptions import never_dropped
from edge_assets.core import garbage
from edge_assets.targets import this_machine

MEMORY_PER_WORKER = 4 * 2**30  # bytes; the largest converters need about 3 GiB


@dataclass(frozen=True)
class Work:
    """One family's targets to bring up to date for one checkpoint, all by name."""

    model: str
    checkpoint: str
    family: str
    targets: tuple[str, ...]
    mode: str
    timed: tuple[str, ...] = ()  # of the targets, those whose variants are built here and measured later


@dataclass(frozen=True)
class Said:
    """A line for people, of one target."""

    line: str
    target: str


@dataclass(frozen=True)
class Finished:
    """An asset that is there, and the seconds that it took."""

    family: str
    asset: str
    seconds: float


@dataclass(frozen=True)
class Result:
    """What became of one target: see `build.Outcome`."""

    target: str
    status: str
    message: str
    failures: dict[str, str]


Event: TypeAlias = Said | Finished
Do: TypeAlias = Callable[[Work, Callable[[Event], None]], list[Result]]


def worker_count() -> int:
    """How many workers this machine carries: one per core and per 4 GiB of memory."""
    machine = this_machine()
    return max(1, min(machine.cores, machine.memory_bytes // MEMORY_PER_WORKER))


def at_once(
    works: Sequence[Work],
    do: Do,
    workers: int,
    hear: Callable[[Event], None],
) -> Iterator[tuple[Work, list[Result]]]:
    """Results of each piece of work, as it is done; `hear` gets the events meanwhile.

    `do` is a module's function: it runs in the workers. Ctrl-C and SIGTERM end the workers too.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can deadlock
    heard = Heard(hear)
    shares = context.Queue()
    for share in _shares(workers):
        shares.put(share)
    executor = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_begin,
        initargs=(heard.address, shares),
    )
    try:
        with _ended_together():
            futures: dict[Future[list[Result]], Work] = {executor.submit(_run, do, work): work for work in works}
            for done, future in enumerate(as_completed(futures), 1):
                if len(futures) - done < workers:
                    _give_all_cores()
                yield futures[future], future.result()
    finally:
        executor.shutdown(cancel_futures=True)
        heard.close()


def _shares(workers: int) -> list[set[int]]:
    """The cores of each worker."""
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[number::workers]) for number in range(workers)]


def _give_all_cores() -> None:
    """Let the workers, and what they started, have every core of this process: there is less work than workers."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = os.sched_getaffinity(0)
    for worker in multiprocessing.active_children():
        with suppress(psutil.Error, ProcessLookupError):  # one that ends meanwhile needs none
            process = psutil.Process(worker.pid)
            for one in (process, *process.children(recursive=True)):
                for thread in one.threads():
                    os.sched_setaffinity(thread.id, cores)


class Heard:
    """Events of workers, each over a connection of its own: one that is killed while it speaks silences no other.

    A queue that all share has one lock, which a killed process holds for ever.
    """

    def __init__(self, hear: Callable[[Event], None]) -> None:
        self.hear = hear
        self.turn = threading.Lock()
        self.listener = Listener()
        self.readers: list[threading.Thread] = []
        self.is_closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        """Where workers connect."""
        return str(self.listener.address)

    def close(self) -> None:
        """Hear to its end what workers said that are done by now."""
        for reader in self.readers:
            reader.join()
        self.is_closed = True
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self.listener.accept()
            except (OSError, EOFError):  # closed; or a worker that was killed while it came
                if self.is_closed:
                    return
                continue
            reader = threading.Thread(target=self._read, args=(connection,), daemon=True)
            self.readers.append(reader)
            reader.start()

    def _read(self, connection: "Connection[object, Event]") -> None:
        with connection:
            while True:
                try:
                    event = connection.recv()
                except (EOFError, OSError):
                    return
                with self.turn:
                    self.hear(event)


@contextmanager
def _ended_together() -> Iterator[None]:
    """SIGTERM to this process is Ctrl-C to it and to the workers, so that each records how its run ended."""

    def end(_signal: int, _frame: object) -> None:
        for process in multiprocessing.active_children():
            if process.pid:
                os.kill(process.pid, signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- in a worker -----------------------------------------------------------------------------------------


class Voice:
    """What a worker says, in a thread of its own: Ctrl-C cuts no event in two."""

    def __init__(self, address: str) -> None:
        self.waiting: queue.Queue[Event] = queue.Queue()
        self.connection = Client(address)
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        while True:
            event = self.waiting.get()
            with suppress(OSError):  # nobody hears any more
                self.connection.send(event)
            self.waiting.task_done()


_voice: Voice | None = None


def _begin(address: str, shares: "Queue[set[int]]") -> None:
    """Keep to a share of the cores; the machine itself is looked at before, since recipes say how many it has."""
    global _voice  # noqa: PLW0603  # a pool's initializer has no other way to hand something to its tasks
    _voice = Voice(address)
    garbage.look_less_often()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while it waits for work: Ctrl-C ends it through its queue
    this_machine()
    if share := shares.get():
        os.sched_setaffinity(0, share)


def _run(do: Do, work: Work) -> list[Result]:
    assert _voice is not None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with never_dropped():
            return do(work, _voice.waiting.put)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _voice.waiting.join()
