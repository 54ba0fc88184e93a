"""Measure several callables in turn, so that drift of the machine hits all of them alike."""

from __future__ import annotations

import itertools
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Call = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes
    ----------
    rounds
        Turns of each contender.
    warm_ns
        A contender is run for so long before its turn is timed: the thread pool of the one before goes on spinning for
        some milliseconds, on the very processors that the next one needs.
    turn_ns
        A turn has samples for so long, one at least.
    budget_ns
        A contender that has had so much, and `least_turns`, sits the other rounds out.
    least_turns
        Turns that even the slowest contender has; with 0, the one sample from finding out how long it takes may do.
    pause_ns
        Where it is not 0, nothing is done for so long before each call, and threads go to sleep.
    """

    rounds: int = 21
    warm_ns: int = 20_000_000
    turn_ns: int = 10_000_000
    budget_ns: int = 5_000_000_000
    least_turns: int = 3
    pause_ns: int = 0


THOROUGH = Effort()
BRISK = Effort(rounds=7, warm_ns=10_000_000, budget_ns=1_000_000_000, least_turns=0)
QUICK = Effort(rounds=3, warm_ns=5_000_000, turn_ns=5_000_000, budget_ns=200_000_000, least_turns=0)
PAUSED = Effort(rounds=41, warm_ns=0, turn_ns=0, pause_ns=20_000_000)

# A sample has so many calls that the clock does not matter, but is shorter than a time slice of the
# scheduler: another process then spoils some samples, which the median drops, and not all.
SAMPLE_NS = 1_000_000


def elapsed_ns(call: Call, loops: int) -> int:
    """Time `loops` calls."""
    turns = itertools.repeat(None, loops)
    start = time.perf_counter_ns()
    for _ in turns:
        call()
    return time.perf_counter_ns() - start


def first_sample(call: Call) -> tuple[int, float]:
    """Double the number of calls until they fill a sample: that number, and the sample's seconds per call."""
    loops = 1
    while (elapsed := elapsed_ns(call, loops)) < SAMPLE_NS:
        loops *= 2
    return loops, elapsed * 1e-9 / loops


def warm(call: Call, warm_ns: int) -> None:
    """Call for at least so long, once at least."""
    end = time.perf_counter_ns() + warm_ns
    call()
    while time.perf_counter_ns() < end:
        call()


def turn(call: Call, loops: int, effort: Effort) -> list[float]:
    """Warm up, then give samples of seconds per call."""
    warm(call, effort.warm_ns)
    samples: list[float] = []
    end = time.perf_counter_ns() + effort.turn_ns
    while not samples or time.perf_counter_ns() < end:
        if effort.pause_ns:
            time.sleep(effort.pause_ns * 1e-9)
            loops = 1
        samples.append(elapsed_ns(call, loops) * 1e-9 / loops)
    return samples


def medians_in_turn(contenders: Mapping[str, Call], effort: Effort = THOROUGH) -> dict[str, float]:
    """Give the median seconds per call of each contender; in a round each of them has a turn."""
    loops: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    spent: dict[str, int] = {}
    for name, call in contenders.items():
        call()  # whatever happens only once: compiling, first touch of the memory
        start = time.perf_counter_ns()
        warm(call, effort.warm_ns)
        loops[name], sample = first_sample(call)
        samples[name] = [sample]
        spent[name] = time.perf_counter_ns() - start
    for done in range(effort.rounds):
        for name, call in contenders.items():
            if done < effort.least_turns or spent[name] < effort.budget_ns:
                start = time.perf_counter_ns()
                samples[name] += turn(call, loops[name], effort)
                spent[name] += time.perf_counter_ns() - start
    return {name: statistics.median(values) for name, values in samples.items()}


def peak_bytes(call: Call) -> int:
    """Give the most memory that one call holds at a time, as Python and NumPy allocate it.

    Memory that compiled code takes from the C library by itself is not seen by `tracemalloc`.
    """
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
