"""Called from anywhere: many threads at once, pools, asyncio, dying threads, the end of the interpreter, PyTorch."""

from __future__ import annotations

import pytest
from children import needs_proc, printed, run

LAYERS = ["", "omp", "workqueue"]


def layer_of(name: str) -> dict[str, str]:
    return {"NUMBA_THREADING_LAYER": name} if name else {}


@pytest.mark.parametrize("layer", LAYERS)
def test_32_threads_call_different_functions_at_once(layer: str) -> None:
    code = """
        fastsoftmax.set_num_threads(3)
        expected = answers()
        barrier = threading.Barrier(32)
        good = []

        def work(number):
            barrier.wait()
            good.append(all(one((number + turn) % 7) == expected[(number + turn) % 7] for turn in range(7)))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(32)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(len(good), all(good), right(expected))
        """
    assert printed(code, **layer_of(layer)) == "32 True True"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_first_call_comes_from_16_threads_at_once(layer: str) -> None:
    """Nothing is loaded yet, and all want the same."""
    code = """
        fastsoftmax.set_num_threads(2)
        barrier = threading.Barrier(16)
        results = []

        def work():
            barrier.wait()
            results.append(answers())

        workers = [threading.Thread(target=work) for _ in range(16)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(len(results), all(result == results[0] for result in results), right(results[0]))
        """
    assert printed(code, **layer_of(layer)) == "16 True True"


@pytest.mark.parametrize("layer", LAYERS)
def test_thread_pools_and_asyncio(layer: str) -> None:
    """A pool within a pool, coroutines beside them."""
    code = """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        fastsoftmax.set_num_threads(2)
        expected = answers()

        def inner(number):
            with ThreadPoolExecutor(2) as pool:
                return [one(number % 7), *pool.map(one, range(7))] == [expected[number % 7], *expected]

        async def main():
            calls = [asyncio.to_thread(one, number % 7) for number in range(28)]
            return await asyncio.gather(*calls)

        with ThreadPoolExecutor(4) as pool:
            nested = pool.map(inner, range(8))
            awaited = asyncio.run(main())
            print(all(nested), awaited == expected * 4)
        """
    assert printed(code, **layer_of(layer)) == "True True"


@needs_proc
@pytest.mark.parametrize("layer", LAYERS)
def test_threads_that_die_leave_nothing_behind(layer: str) -> None:
    """Each has launched threads of its own; they go with it."""
    code = """
        fastsoftmax.set_num_threads(2)
        expected = answers()
        threading.excepthook = lambda arguments: None

        def work():
            assert answers() == expected
            raise RuntimeError("dies")

        def count():
            return len(os.listdir("/proc/self/task"))

        counts = []
        for _ in range(12):
            worker = threading.Thread(target=work)
            worker.start()
            worker.join()
            counts.append(count())
        until = time.monotonic() + 20
        while count() > counts[0] and time.monotonic() < until:
            time.sleep(0.05)
        print(count() <= counts[0], answers() == expected)
        """
    assert printed(code, **layer_of(layer)) == "True True"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_end_of_the_interpreter(layer: str) -> None:
    """From `atexit`, where no thread can be started any more, while a daemon thread still computes."""
    code = """
        import atexit
        fastsoftmax.set_num_threads(3)
        expected = answers()
        threading.Thread(target=lambda: [answers() for _ in range(10**6)], daemon=True).start()
        time.sleep(0.2)

        def last():
            print(answers() == expected, flush=True)

        atexit.register(last)
        """
    done = run(code, **layer_of(layer))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("layer", LAYERS)
def test_the_first_call_at_the_end_of_the_interpreter(layer: str) -> None:
    code = """
        import atexit
        fastsoftmax.set_num_threads(3)
        atexit.register(lambda: print(right(answers()), flush=True))
        """
    done = run(code, **layer_of(layer))
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("first", ["torch", "fastsoftmax"])
@pytest.mark.parametrize("layer", ["", "workqueue"])
def test_beside_the_threads_of_pytorch(layer: str, first: str) -> None:
    """In turn and at once: its OpenMP in the same process, whoever comes first."""
    pytest.importorskip("torch")
    code = """
        import torch
        torch.set_num_threads(2)
        fastsoftmax.set_num_threads(2)
        x = torch.from_numpy(inputs[1])

        def theirs():
            return torch.softmax(x, -1).numpy()

        if sys.argv[1] == "torch":
            theirs()
        expected, reference = answers(), theirs()
        good = []

        def work(number):
            for _ in range(5):
                if number % 2:
                    good.append(answers() == expected)
                else:
                    good.append(all(np.array_equal(theirs(), reference) for _ in range(20)))

        workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for worker in workers: worker.start()
        for _ in range(5):
            good += [answers() == expected, np.array_equal(theirs(), reference)]
        for worker in workers: worker.join()
        print(len(good), all(good), np.allclose(theirs(), np.frombuffer(expected[1], np.float32).reshape(x.shape)))
        """
    assert printed(code, first, **layer_of(layer)) == "50 True True"


def test_threads_have_let_go_of_the_arrays_when_a_call_returns() -> None:
    """Who resizes an array in place, or counts what refers to it, finds none of the threads that worked on it."""
    code = """
        fastsoftmax.set_num_threads(4)
        x = rng.normal(size=(600, 1000)).astype(np.float32)
        out = np.empty_like(x)
        before = sys.getrefcount(x), sys.getrefcount(out)
        sys.setswitchinterval(1e-6)
        for _ in range(2000):
            fastsoftmax.softmax(x, axis=-1, out=out)
            after = sys.getrefcount(x), sys.getrefcount(out)
            assert after == before, (before, after)
        print(fastsoftmax.show_config("dicts")["threading_layer"])
        """
    assert "workqueue" in printed(code, NUMBA_THREADING_LAYER="workqueue")
