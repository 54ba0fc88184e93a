"""Ctrl-C during work that would go on for long: it ends within a second, and the library is as good as before."""

from __future__ import annotations

import os
import signal
import time

import pytest
from children import finish, printed, program, start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
GRACE = 1.0  # seconds; a few milliseconds are usual, some tens where others compute too

# Arrays of many times the size of their memory: rows that all are the same.
LONG = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who was started in the background may ignore it
    kind = sys.argv[1]
    fastsoftmax.set_num_threads(int(sys.argv[2]))
    expected = answers()
    row = np.arange(2**15, dtype=np.float32) % 100

    def many(shape, *strides, dtype=np.float32):
        return np.lib.stride_tricks.as_strided(row.astype(dtype), shape, strides)

    if kind == "rows":
        x = many((2**22, 2**15), 0, 4)
        call = lambda: fastsoftmax.logsumexp(x, axis=-1)
    elif kind == "columns":
        x = many((2**16, 2**9, 2**9), 0, 0, 4)
        out = np.empty((2**16, 2**9), np.float32)
        call = lambda: fastsoftmax.logsumexp(x, axis=1, out=out)
    elif kind == "blocks":
        x = many((2**19, 2**15), 0, 1, dtype=np.int8)
        call = lambda: fastsoftmax.logsumexp(x, axis=-1)
    elif kind == "losses":
        x, y = many((2**22, 2**15), 0, 4), np.zeros(2**22, int)
        call = lambda: fastsoftmax.cross_entropy(x, y)
    elif kind == "one row":
        x = np.zeros(2**27, np.float32)
        def call():
            while True:  # each takes a part of the time that a test may take
                fastsoftmax.softmax(x, axis=-1, out=x)
    # Compiling is no part of what is measured; `test_it_ends_compiling` is about that.
    if kind == "columns":
        fastsoftmax.logsumexp(x[:300], axis=1, out=out[:300])
    elif kind == "losses":
        fastsoftmax.cross_entropy(x[:3000], y[:3000])
    elif kind in ("rows", "blocks"):
        fastsoftmax.logsumexp(x[:3000], axis=-1)
    else:
        fastsoftmax.softmax(x, axis=-1, out=x)
    before = time.monotonic()
    print("begins", flush=True)
    try:
        call()
        print("finished", time.monotonic() - before)
    except KeyboardInterrupt:
        end = time.time()
        others = [t for t in threading.enumerate() if t is not threading.main_thread()]
        print(end, answers() == expected, flush=True)
"""


def interrupted(kind: str, threads: int, layer: str = "") -> float:
    """Seconds from the signal to the exception."""
    changes = {"NUMBA_THREADING_LAYER": layer} if layer else {}
    child = start(program(LONG), kind, threads, **changes)
    assert child.stdout is not None
    assert child.stdout.readline() == "begins\n", finish(child).stderr
    time.sleep(0.7)
    sent = time.time()
    os.kill(child.pid, signal.SIGINT)
    done = finish(child)
    assert done.returncode == 0, done.stderr[-2000:]
    end, same = done.stdout.split()
    assert end != "finished", "the call is too short for this test"
    assert same == "True"
    return float(end) - sent


@pytest.mark.parametrize("kind", ["rows", "columns", "blocks", "losses", "one row"])
@pytest.mark.parametrize(("threads", "layer"), [(2, ""), (2, "workqueue"), (1, "")])
def test_it_ends_a_long_call(kind: str, threads: int, layer: str) -> None:
    assert interrupted(kind, threads, layer) < GRACE


def test_nothing_is_written_after_it() -> None:
    """By threads that would not have heard of it."""
    code = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fastsoftmax.set_num_threads(3)
    x = np.zeros((2**13, 2**15), np.float32)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            x.fill(1.0)
            fastsoftmax.softmax(x, axis=-1, out=x)
    except KeyboardInterrupt:
        x.fill(7.0)
        time.sleep(1)
        print((x == 7.0).all())
    """
    for layer in ("omp", "workqueue"):
        assert printed(code, NUMBA_THREADING_LAYER=layer) == "True"


def test_it_ends_compiling(tmp_path: object) -> None:
    """Wherever in the compiler it comes; and when nobody interrupts any more, the next call compiles."""
    code = """
    import signal
    from fastsoftmax import _execute

    armed = False

    def interrupt(*_):
        global armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def send():
        for pause in rng.uniform(0.005, 0.1, 60):
            time.sleep(pause)
            os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    sender = threading.Thread(target=send)
    sender.start()
    ended = slowest = 0
    while sender.is_alive():
        begun = time.monotonic()
        try:
            armed = True
            _execute.total(np.ones(5))
            armed = False
            _execute.SUM.__init__('sum_numbers', _execute.SUM.dispatcher.py_func, _execute.SUM._arguments)
        except KeyboardInterrupt:
            ended += 1
            slowest = max(slowest, time.monotonic() - begun)
    right = np.allclose(fastsoftmax.softmax(inputs[0], axis=-1), plain(inputs[0], -1))
    print(ended > 30, slowest < 1, _execute.total(np.ones(5)), right)
    """
    assert printed(code, FASTSOFTMAX_CACHE_DIR=str(tmp_path)) == "True True 5.0 True"


def test_the_process_ends_soon_after_it_ends_compiling(tmp_path: object) -> None:
    """The compiler is not waited for."""
    code = """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try:
        fastsoftmax.warmup()
    except KeyboardInterrupt:
        print(time.time())
    """
    begun = float(printed(code, FASTSOFTMAX_CACHE_DIR=str(tmp_path)))
    assert time.time() - begun < 5 * GRACE
