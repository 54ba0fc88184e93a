"""No memory to be had: MemoryError or the right answer, and the library is as good as before."""

from __future__ import annotations

import errno
import mmap
import threading
from typing import Any

import pytest
from children import needs_proc, printed

from fastsoftmax._kernels import interrupts

LIMITED = """
    import resource

    def used():
        return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

    def with_room(extra, call):
        # What the call returns, or the error that it raises, with so many bytes more than now.
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used() + extra, hard))
        try:
            return call()
        except MemoryError as error:
            return error
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
"""


@needs_proc
@pytest.mark.parametrize("threads", [1, 2])
def test_no_room_for_the_result(threads: int) -> None:
    code = (
        LIMITED
        + """
    fastsoftmax.set_num_threads(int(sys.argv[1]))
    expected = answers()
    x = np.ones((2**12, 2**13), np.float32)
    y = np.zeros(2**12, int)
    calls = [
        lambda: fastsoftmax.softmax(x, axis=-1),
        lambda: fastsoftmax.softmax(x, axis=None),
        lambda: fastsoftmax.log_softmax(x.T, axis=0),
        lambda: fastsoftmax.softmax_backward(x, x, axis=-1),
        lambda: fastsoftmax.cross_entropy_with_grad(x, y),
        lambda: fastsoftmax.softmax(x, axis=-1, where=x > 0),
        lambda: fastsoftmax.softmax(x[:, ::2], axis=-1),
    ]
    for call in calls:
        # Less than any result, and than a thread takes to load a kernel that has no room of its own.
        error = with_room(16 << 20, call)
        assert isinstance(error, MemoryError), error
        assert answers() == expected
    print((x == 1).all())
    """
    )
    assert printed(code, threads) == "True"


@needs_proc
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_no_room_for_what_is_needed_meanwhile(layer: str) -> None:
    """From nothing at all upwards: the states of long rows, tiles of columns, blocks, the tables of labels."""
    code = (
        LIMITED
        + """
    fastsoftmax.set_num_threads(2)
    x = rng.normal(size=(256, 4096)).astype(np.float32)
    long = x.reshape(4, -1)
    deep = x.reshape(16, 256, 256)
    y = rng.integers(0, 4096, 256)
    many = np.zeros(2**18, int)
    mask = x > -1
    out = [np.empty_like(a) for a in (x, long, deep)]
    calls = [
        lambda: fastsoftmax.softmax(x, axis=-1, out=out[0]),
        lambda: fastsoftmax.softmax(x, axis=0, out=out[0]),
        lambda: fastsoftmax.logsumexp(deep, axis=1),
        lambda: fastsoftmax.softmax(deep, axis=1, out=out[2]),
        lambda: fastsoftmax.softmax_backward(x, x, axis=0, out=out[0]),
        lambda: fastsoftmax.softmax(x, axis=None, out=out[0]),
        lambda: fastsoftmax.softmax(long, axis=-1, out=out[1]),
        lambda: fastsoftmax.softmax(x, axis=-1, where=mask, out=out[0]),
        lambda: fastsoftmax.cross_entropy_with_grad(x, y, out=out[0])[1],
        lambda: fastsoftmax.cross_entropy(x.reshape(-1, 4), many, reduction="none"),
    ]
    expected = [np.array(call()) for call in calls]
    from numba.core.runtime import rtsys

    def tiles_alive():
        stats = rtsys.get_allocation_stats()
        return stats.mi_alloc - stats.mi_free

    counts, tiles = [sys.getrefcount(array) for array in (x, long, deep, mask, *out)], tiles_alive()
    seen = set()
    for extra in (0, 1 << 16, 1 << 18, 1 << 19, 1 << 20, 3 << 19, 1 << 21, 1 << 22, 1 << 24):
        for number, call in enumerate(calls):
            for array in out:
                array.fill(7)
            result = with_room(extra, call)
            seen.add(type(result).__name__)
            if not isinstance(result, MemoryError):
                assert np.array_equal(result, expected[number]), (number, extra)
            assert np.array_equal(call(), expected[number]), (number, extra)
    result = array = None  # the error knows the frames that it came through, and they know it
    import gc
    gc.collect()
    assert counts == [sys.getrefcount(array) for array in (x, long, deep, mask, *out)]
    assert tiles == tiles_alive()
    print(sorted(seen))
    """
    )
    # Freed memory goes back at once, and none is kept for threads: glibc would answer out of what is still mapped.
    glibc = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    changes = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NRT_STATS": "1", **glibc}
    assert "MemoryError" in printed(code, **changes)


def test_who_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of its own; where there are no addresses for one, the thread that asks."""
    me = threading.get_ident()
    assert interrupts.uninterrupted(threading.get_ident) != me

    def no_room(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOMEM, "no addresses")

    monkeypatch.setattr(mmap, "mmap", no_room)
    assert interrupts.uninterrupted(threading.get_ident) == me
