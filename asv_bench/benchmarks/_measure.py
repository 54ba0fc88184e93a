"""Measure several callables in turn, so that drift of the machine hits all of them alike."""

from __future__ import annotations

import itertools
import statistics
import time
import tracemalloc
from collections.abc import Callable, Mapping

Call = Callable[[], object]

# The thread pool of the contender before goes on spinning for some milliseconds, on the very
# processors that the next one needs: each is run for this long before its turn is timed.
WARM_NS = 20_000_000
# A turn has samples for this long, one at least.
TURN_NS = 10_000_000
# A sample has so many calls that the clock does not matter, but is shorter than a time slice of the
# scheduler: another process then spoils some samples, which the median drops, and not all.
SAMPLE_NS = 1_000_000
# A contender that has had this much, MIN_TURNS times, sits the other rounds out.
BUDGET_NS = 5_000_000_000
MIN_TURNS = 3


def elapsed_ns(call: Call, loops: int) -> int:
    """Time `loops` calls."""
    turns = itertools.repeat(None, loops)
    start = time.perf_counter_ns()
    for _ in turns:
        call()
    return time.perf_counter_ns() - start


def loops_per_sample(call: Call) -> int:
    """Double the number of calls until they fill a sample."""
    loops = 1
    while elapsed_ns(call, loops) < SAMPLE_NS:
        loops *= 2
    return loops


def warm(call: Call) -> None:
    """Call for at least `WARM_NS`, once at least."""
    end = time.perf_counter_ns() + WARM_NS
    call()
    while time.perf_counter_ns() < end:
        call()


def turn(call: Call, loops: int) -> list[float]:
    """Warm up, then give samples of seconds per call."""
    warm(call)
    samples = []
    end = time.perf_counter_ns() + TURN_NS
    while not samples or time.perf_counter_ns() < end:
        samples.append(elapsed_ns(call, loops) * 1e-9 / loops)
    return samples


def medians_in_turn(contenders: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Give the median seconds per call of each contender; in a round each of them has a turn."""
    loops = {}
    for name, call in contenders.items():
        call()  # whatever happens only once: compiling, first touch of the memory
        warm(call)
        loops[name] = loops_per_sample(call)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    spent = dict.fromkeys(contenders, 0)
    for done in range(rounds):
        for name, call in contenders.items():
            if done < MIN_TURNS or spent[name] < BUDGET_NS:
                start = time.perf_counter_ns()
                samples[name] += turn(call, loops[name])
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
