"""The load generator: a process of its own, one epoll loop, that counts marks and reads clocks.

`python -m tools.bench.load ORDER` (JSON of orders.Order) prints an orders.Answer. It parses
nothing, so that it costs little beside what it measures; its own CPU time is told with the rest.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

from attrs import evolve

from orchd.wire import codec
from tools.bench import proc, requests
from tools.bench.orders import Answer, Api, Held, Mode, Order, Samples, Target, Window

RECV_BYTES: Final = 256 << 10
GIVE_UP_S: Final = 120.0
SETTLE_S: Final = 5.0  # several periods of metrics frames and heartbeats
OPENING: Final = 64  # streams that are being opened at the same time


class Stream:
    """One connection, non-blocking: asks, counts tokens, and asks again if it is told to."""

    def __init__(self, load: Load, max_tokens: int, *, again: bool) -> None:
        self._load = load
        self._max_tokens = max_tokens
        self._again = again
        self._api = load.target.api
        self._mark = requests.MARKS[self._api]
        self._sock = proc.connect(load.target.address)
        self._sock.setblocking(False)
        self._task = b""
        self._head = b""
        """What has come of the answer to a POST of a task; the stream follows it."""
        self._posted = False
        self._tail = b""
        self.begun = False
        """The head of the stream, or its first frame, has come."""
        self.spoke = False
        load.add(self._sock.fileno(), self._ready)

    def ask(self) -> None:
        """Send the next request."""
        self._tail = self._head = b""
        if self._api is Api.TASKS:
            self._task = requests.task_id()
            self._posted = True
            self._sock.send(requests.post_task(self._task, self._max_tokens))
        else:
            self._sock.send(requests.post_completion(self._max_tokens))

    def close(self) -> None:
        """Hang up: the task is cancelled."""
        self._load.remove(self._sock.fileno())
        self._sock.close()

    def _ready(self) -> None:
        try:
            data = self._sock.recv(RECV_BYTES)
        except ConnectionError as exc:
            self._load.refuse(str(exc).encode())
            self.close()
            return
        if not data:
            self._load.refuse(b"the connection was closed")
            self.close()
        elif self._posted:
            self._accepted(data)
        else:
            self._count(data)

    def _accepted(self, data: bytes) -> None:
        self._head += data
        if requests.answer_size(self._head) is None:
            return
        if not self._head.startswith(b"HTTP/1.1 202"):
            self._load.refuse(self._head)
            return
        self._posted = False
        self._load.admitted(self)
        if self._load.reads:
            self._sock.send(requests.get_stream(self._task))

    def _count(self, data: bytes) -> None:
        if not self._tail:
            self.begun = True
            if not data.startswith(b"HTTP/1.1 200"):
                self._load.refuse(data)
                return
        joined = self._tail + data
        found = joined.count(self._mark)
        self.spoke = self.spoke or found > 0
        self._load.tokens += found
        # a mark that is cut is counted when its rest has come; whole ones are not counted twice
        self._tail = joined[-(len(self._mark) - 1) :]
        if joined.endswith(requests.LAST_CHUNK):
            self._load.tasks += 1
            if self._again:
                self.ask()


class Load:
    """One run of STREAMS, ADMISSIONS or HOLD against one target."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.target: Target = order.targets[0]
        self.tokens = self.tasks = self.refused = 0
        self.reads = order.mode is not Mode.ADMISSIONS
        self._refusal = b""
        self._epoll = select.epoll()
        self._files: dict[int, Callable[[], None]] = {}
        self._marks: list[tuple[float, int, int, tuple[float, ...], float]] = []

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when `fd` is readable."""
        self._files[fd] = callback
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Forget a file that is about to be closed."""
        del self._files[fd]
        self._epoll.unregister(fd)

    def refuse(self, answer: bytes) -> None:
        """Note an answer that is none."""
        self.refused += 1
        self._refusal = self._refusal or answer[:400]

    def admitted(self, stream: Stream) -> None:
        """A task was taken: with ADMISSIONS, that is all that is wanted of it."""
        if not self.reads:
            self.tasks += 1
            if self.tasks in self.order.windows:
                self._mark()
            stream.ask()

    def run(self) -> Answer:
        """Do what the order says."""
        match self.order.mode:
            case Mode.ADMISSIONS:
                return self._admissions()
            case Mode.HOLD:
                return self._hold()
        return self._streams()

    def _streams(self) -> Answer:
        order = self.order
        streams = [Stream(self, order.max_tokens, again=order.again) for _ in range(order.streams)]
        for stream in streams:
            stream.ask()
        self._turn(lambda: all(stream.spoke for stream in streams))
        self._turn_for(order.warm_s)
        self._mark()
        self._turn_for(order.window_s)
        self._mark()
        for stream in streams:
            stream.close()
        return self._answer()

    def _admissions(self) -> Answer:
        for _ in range(self.order.streams):
            Stream(self, self.order.max_tokens, again=False).ask()
        self._turn(lambda: self.tasks >= self.order.windows[-1])
        return self._answer()

    def _hold(self) -> Answer:
        order = self.order
        before = tuple(proc.pss_kib(pid) for pid in order.pids)
        streams: list[Stream] = []
        while len(streams) < order.streams and not self.refused:
            some = range(min(OPENING, order.streams - len(streams)))
            fresh = [Stream(self, order.max_tokens, again=False) for _ in some]
            for stream in fresh:
                stream.ask()
            self._turn(lambda fresh=fresh: all(stream.begun for stream in fresh))  # type: ignore[misc]
            streams += [stream for stream in fresh if stream.begun]
        self._mark()
        self._turn_for(SETTLE_S)
        self._mark()
        after = tuple(proc.pss_kib(pid) for pid in order.pids)
        answer = self._answer()
        held = Held(
            streams=len(streams), before_kib=before, after_kib=after, settle=answer.windows[0]
        )
        return evolve(answer, held=held, refused=0)  # a limit that was met is a figure here

    def _turn(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while not done() and not self.refused:
            if time.monotonic() > deadline:
                self.refuse(b"nothing more came in time")
            self._once(1.0)

    def _turn_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._once(left)

    def _once(self, timeout_s: float) -> None:
        for fd, _ in self._epoll.poll(timeout_s):
            callback = self._files.get(fd)
            if callback is not None:
                callback()

    def _mark(self) -> None:
        cpu = tuple(proc.cpu_s(pid) for pid in self.order.pids)
        self._marks.append(
            (time.monotonic(), self.tokens, self.tasks, cpu, time.process_time())
        )  # fmt: skip

    def _answer(self) -> Answer:
        windows = []
        # a run that was refused may have begun a window and not ended it
        for begin, end in zip(self._marks[::2], self._marks[1::2], strict=False):
            windows.append(
                Window(
                    wall_s=end[0] - begin[0],
                    tokens=end[1] - begin[1],
                    tasks=end[2] - begin[2],
                    cpu_s=tuple(b - a for a, b in zip(begin[3], end[3], strict=True)),
                    load_cpu_s=end[4] - begin[4],
                )
            )
        return Answer(
            windows=tuple(windows),
            refused=self.refused,
            refusal=self._refusal.decode(errors="replace"),
        )


def first_tokens(order: Order) -> Answer:
    """Ask the targets in turn, one stream at a time, so that all see the same minutes."""
    socks = [proc.connect(target.address) for target in order.targets]
    taken: list[list[float]] = [[] for _ in order.targets]
    while len(taken[-1]) < order.tasks:
        for target, sock, samples in zip(order.targets, socks, taken, strict=True):
            for _ in range(order.in_a_row):
                time.sleep(order.gap_s)
                first = _first_token(target, sock, order.max_tokens)
                if isinstance(first, Answer):
                    return first
                samples.append(first * 1e3)
    return Answer(
        samples=tuple(
            Samples(name=target.name, ms=tuple(samples))
            for target, samples in zip(order.targets, taken, strict=True)
        )
    )


def answers(order: Order) -> Answer:
    """Post tasks on one connection, each when the one before it was accepted."""
    (target,) = order.targets
    took: list[float] = []
    with proc.connect(target.address) as sock:
        for _ in range(order.tasks):
            began = time.perf_counter()
            sock.sendall(requests.post_task(requests.task_id(), order.max_tokens))
            wrong = _accepted(sock)
            if wrong is not None:
                return wrong
            took.append((time.perf_counter() - began) * 1e3)
    return Answer(samples=(Samples(name=target.name, ms=tuple(took)),))


def _accepted(sock: socket.socket) -> Answer | None:
    """Wait for a 202; return what came instead of it."""
    answer = b""
    while requests.answer_size(answer) is None:
        answer += _recv(sock.recv)
    if answer.startswith(b"HTTP/1.1 202"):
        return None
    return Answer(refused=1, refusal=answer[:400].decode(errors="replace"))


def _first_token(target: Target, sock: socket.socket, max_tokens: int) -> float | Answer:
    """Run one task to its end; return seconds to its first token, or what refused it."""
    mark = requests.MARKS[target.api]
    began = time.perf_counter()
    if target.api is Api.TASKS:
        task = requests.task_id()
        sock.sendall(requests.post_task(task, max_tokens))
        wrong = _accepted(sock)
        if wrong is not None:
            return wrong
        sock.sendall(requests.get_stream(task))
    else:
        sock.sendall(requests.post_completion(max_tokens))
    data = _recv(sock.recv)
    while mark not in data:
        data += _recv(sock.recv)
    took = time.perf_counter() - began
    while not data.endswith(requests.LAST_CHUNK):
        data += _recv(sock.recv)
    return took


def _recv(recv: Callable[[int], bytes]) -> bytes:
    data = recv(RECV_BYTES)
    if not data:
        raise ConnectionError("the peer closed the connection")
    return data


def main() -> None:
    """Carry out the order in argv."""
    order = codec.loads(Order, sys.argv[1].encode())
    match order.mode:
        case Mode.FIRST:
            answer = first_tokens(order)
        case Mode.ANSWERS:
            answer = answers(order)
        case _:
            answer = Load(order).run()
    print(codec.dumps(answer).decode())


if __name__ == "__main__":
    main()
