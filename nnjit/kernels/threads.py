"""Threads that share the tasks of a kernel call.

Numba's `prange` gives every thread its share of the tasks and then waits for all threads, so a call cannot end before
each thread has had its turn on a core: beside other busy processes on two cores an epoch of LeNet-5 took 35 s instead
of 1 s. Here a thread that has done its share goes on with the others', and the calling thread waits only for threads
that have begun a task. A thread that is late finds nothing to do, which costs nothing. A shared call costs under 1 us
(prange on OpenMP: 1.4 us), and no threading layer need be installed. Results do not depend on who computes which task.

The threads are Python threads inside a compiled loop that does not hold the interpreter's lock. They look for work for
a while, then sleep, longer and longer, until there is some again.
"""

from __future__ import annotations

import atexit
import platform
import threading
import time

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils
from numba.extending import intrinsic

from nnjit.kernels.compiler import JIT, compiled, driver, settings

# The words that the threads share. A cache line (eight words of 8 bytes) holds what one thread writes at one time: the
# call's description, before it is opened; the others are written while it runs.
ADDRESS, TASKS, HELPERS, NUMBER = range(4)
OPEN, INSIDE, USERS, NEXT = range(8, 40, 8)
"""NEXT and every eighth word after it are for thread 0, 1, ...: how many tasks of its share are taken."""
CLOSED, QUIT = 0, -1
"""What OPEN holds between calls, and when the threads are to end; otherwise the number of the call."""

LOOKS = 40_000
"""How often an idle thread looks for work before it sleeps: about 1 ms, longer than the gaps in a step and between
steps."""
FIRST_SLEEP, LONGEST_SLEEP = 0.0005, 0.01
"""Seconds."""


def _pointer(context, builder, words_type, words, index):
    view = context.make_array(words_type)(context, builder, words)
    return builder.gep(view.data, [index])


@intrinsic
def _load(typing_context, words, index):
    """words[index], seen in one order by all threads."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, words, *arguments)
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(words, types.intp), generate


@intrinsic
def _store(typing_context, words, index, value):
    """words[index] = value, seen in one order by all threads."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, words, *arguments[:2])
        builder.store_atomic(arguments[2], pointer, "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), generate


@intrinsic
def _add(typing_context, words, index, value):
    """words[index] += value in one step; what it was before."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, words, *arguments[:2])
        return builder.atomic_rmw("add", pointer, arguments[2], "seq_cst")

    return types.int64(words, types.intp, types.int64), generate


@intrinsic
def _pause(typing_context):
    """Tell the core that this is a waiting loop."""

    def generate(context, builder, signature, arguments):
        if platform.machine().lower() in ("x86_64", "amd64"):
            function_type = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _call_task(typing_context, address, task, thread):
    """Call the function at `address` with the number of a task and of the thread."""

    def generate(context, builder, signature, arguments):
        function_type = ir.FunctionType(ir.VoidType(), [ir.IntType(64), ir.IntType(64)])
        builder.call(builder.inttoptr(arguments[0], function_type.as_pointer()), arguments[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@driver
def _take_tasks(words, thread):
    """Run tasks of the open call until none is left, on the thread of that number.

    Each thread begins with its own share, always the same part of the tasks: what it wrote in one call it reads in the
    next, from its own cache. Then it helps with the others' shares. (A step of LeNet-5 took 1.1 ms when tasks were
    dealt as they came, 0.8 ms with shares.)
    """
    address = words[ADDRESS]
    tasks = words[TASKS]
    threads = words[HELPERS] + 1
    for turn in range(threads):
        owner = (thread + turn) % threads
        first = tasks * owner // threads
        last = tasks * (owner + 1) // threads
        taken = _load(words, NEXT + 8 * owner)
        while taken < last - first:
            # A quarter of what is left, so that the last tasks come one by one and no thread waits long for another.
            chunk = max(1, (last - first - taken) // 4)
            start = first + _add(words, NEXT + 8 * owner, chunk)
            for task in range(start, min(start + chunk, last)):
                _call_task(address, task, thread)
            taken = _load(words, NEXT + 8 * owner)


@driver
def _serve(words, thread, looks):
    """As thread number `thread`, from 1, take part in calls until nothing was open for `looks` looks; the number of
    calls taken part in, or -1 to end."""
    served = 0
    idle = 0
    last = CLOSED
    while idle < looks:
        number = _load(words, OPEN)
        if number == QUIT:
            return -1
        if number == CLOSED or number == last or words[HELPERS] < thread:
            idle += 1
            _pause()
            continue
        _add(words, INSIDE, 1)
        # The caller closes a call before it waits for INSIDE to be 0: a call that is still open now stays whole.
        if _load(words, OPEN) == number:
            _take_tasks(words, thread)
            served += 1
            idle = 0
            last = number
        _add(words, INSIDE, -1)
    return served


@driver
def run_calls(words, table, first, last, threads):
    """Run calls first .. last - 1 of `table` (calls, 3) int64: address, number of tasks, whether sharing them is worth
    it.

    Shared are the tasks of one program at a time; another one that runs meanwhile keeps to its own thread.
    """
    alone = _add(words, USERS, 1) == 0
    for call in range(first, last):
        address = table[call, 0]
        tasks = table[call, 1]
        if alone and threads > 1 and table[call, 2]:
            words[ADDRESS] = address
            words[TASKS] = tasks
            words[HELPERS] = threads - 1
            words[NUMBER] += 1
            for thread in range(threads):
                words[NEXT + 8 * thread] = 0
            _store(words, OPEN, words[NUMBER])
            _take_tasks(words, 0)
            _store(words, OPEN, CLOSED)
            while _load(words, INSIDE) != 0:
                _pause()
        else:
            for task in range(tasks):
                _call_task(address, task, 0)
    _add(words, USERS, -1)


def most_threads() -> int:
    """The cores that this process may use, or NUMBA_NUM_THREADS where that is set."""
    return int(settings.NUMBA_NUM_THREADS)


class Team:
    """The threads beside the calling one; `words` is what they share, `size` how many compute, the calling one
    included."""

    def __init__(self) -> None:
        self.words = np.zeros(NEXT + 8 * most_threads(), np.int64)
        self.size = most_threads()
        self._threads: list[threading.Thread] = []

    def gather(self) -> None:
        """Compile what runs calls, unless that is done, and start the threads that are not there yet.

        The calling thread compiles, so that whoever waits for a program has waited for all of it: a thread of the team
        would still be compiling during the first steps, and nobody would see its error.
        """
        if not JIT:
            return
        table = np.zeros((1, 3), np.int64)
        compiled(run_calls, tuple(map(typeof, (self.words, table, 0, 1, self.size))))
        if len(self._threads) < self.size - 1:
            compiled(_serve, tuple(map(typeof, (self.words, 1, LOOKS))))
        while len(self._threads) < self.size - 1:
            number = len(self._threads) + 1
            thread = threading.Thread(target=self._live, args=(number,), name=f"nnjit-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _live(self, number: int) -> None:
        sleep = FIRST_SLEEP
        while True:
            served = _serve(self.words, number, LOOKS)
            if served < 0:
                return
            sleep = FIRST_SLEEP if served else min(2 * sleep, LONGEST_SLEEP)
            time.sleep(sleep)

    def dismiss(self) -> None:
        """End the threads; at exit, so that none is inside compiled code when the interpreter goes."""
        self.words[OPEN] = QUIT
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self.words[OPEN] = CLOSED


TEAM = Team()
atexit.register(TEAM.dismiss)


def set_threads(count: int) -> None:
    """Let programs that are linked from now on compute with `count` threads, 1 to the number of cores."""
    if not 1 <= count <= most_threads():
        raise ValueError(f"expected 1 to {most_threads()} threads, got {count}")
    TEAM.size = count


def get_threads() -> int:
    """With how many threads programs that are linked now compute: all cores unless set."""
    return TEAM.size
