"""Forks at any moment, and every way in which Python starts workers (more in `test_threads`)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from children import finish, needs_fork, printed, program, start

LAYERS = ["", "workqueue"]
IN_A_CHILD = """
    import signal

    def in_a_child(work):
        # The exit code of a forked child: 0 if the work says so; a negative one if it hangs.
        child = os.fork()
        if not child:
            signal.alarm(100)
            code = 9
            try:
                code = 0 if work() else 3
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def layer_of(name: str) -> dict[str, str]:
    return {"NUMBA_THREADING_LAYER": name} if name else {}


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_parallel_work_goes_on_in_a_forked_child(layer: str) -> None:
    """By Python threads, which is seen, and the child's child has them too."""
    code = (
        IN_A_CHILD
        + """
    fastsoftmax.set_num_threads(2)
    expected = answers()
    from fastsoftmax import _execute

    def names():
        return [t.name for t in threading.enumerate() if t.name.startswith("fastsoftmax")]

    def child():
        return answers() == expected and several_tasks() and len(names()) == 1

    print(in_a_child(lambda: child() and in_a_child(child) == 0), answers() == expected)
    """
    )
    assert printed(code, **layer_of(layer)) == "0 True"


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_fork_from_another_thread_while_others_are_inside_kernels(layer: str) -> None:
    code = (
        IN_A_CHILD
        + """
    fastsoftmax.set_num_threads(2)
    expected = answers()
    stop, good, codes = threading.Event(), [], []

    def busy():
        while not stop.is_set():
            good.append(answers() == expected)

    def forks():
        for _ in range(6):
            codes.append(in_a_child(lambda: answers() == expected))

    workers = [threading.Thread(target=busy) for _ in range(3)]
    for worker in workers: worker.start()
    forker = threading.Thread(target=forks)
    forker.start()
    forks()
    forker.join()
    stop.set()
    for worker in workers: worker.join()
    print(codes == [0] * 12, all(good), answers() == expected)
    """
    )
    assert printed(code, **layer_of(layer)) == "True True True"


@needs_fork
def test_fork_while_another_thread_compiles(tmp_path: Path) -> None:
    """A child would wait for that thread, which it does not have, at its own first compilation."""
    code = (
        IN_A_CHILD
        + """
    import numba
    from numba.core import event
    from fastsoftmax import _execute
    begun = threading.Event()

    class Listener(event.Listener):
        def on_start(self, event): begun.set()
        def on_end(self, event): pass

    event.register("numba:compile", Listener())
    worker = threading.Thread(target=lambda: _execute.total(np.ones(5)))
    worker.start()
    assert begun.wait(60)
    time.sleep(0.2)
    code = in_a_child(lambda: numba.njit(lambda a: a + 1)(1) == 2)
    worker.join()
    print(code)
    """
    )
    assert printed(code, FASTSOFTMAX_CACHE_DIR=str(tmp_path)) == "0"


WORKERS = """
    def work(number):
        # In a worker: whether it is right, and how many threads it has by default.
        results = answers()
        return right(results), results == answers(), fastsoftmax.get_num_threads(), several_tasks()

    if __name__ == "__main__":
        import multiprocessing, concurrent.futures
        kind, pool, ask = sys.argv[1:4]
        if ask == "set":
            fastsoftmax.set_num_threads(2)
        assert right(answers())
        if pool == "joblib":
            import joblib
            results = joblib.Parallel(n_jobs=2)(joblib.delayed(work)(i) for i in range(4))
        elif pool == "executor":
            context = multiprocessing.get_context(kind)
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as workers:
                results = list(workers.map(work, range(4)))
        else:
            with multiprocessing.get_context(kind).Pool(2) as workers:
                results = workers.map(work, range(4))
        assert right(answers())
        print(sorted(set(results)))
"""


def workers(tmp_path: Path, kind: str, pool: str, ask: str = "", **changes: str) -> str:
    """What the workers said; spawned ones import the program, so it is a file."""
    script = tmp_path / "main.py"
    script.write_text(program(WORKERS))
    starter = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    if pool == "joblib" or kind != "fork":
        starter = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))"
    done = finish(start(starter, script, kind, pool, ask, **changes))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


KINDS = [
    pytest.param("fork", marks=needs_fork),
    pytest.param("spawn"),
    pytest.param("forkserver", marks=pytest.mark.skipif(sys.platform == "win32", reason="no forkserver")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_workers_of_a_pool_have_one_thread(tmp_path: Path, kind: str) -> None:
    assert workers(tmp_path, kind, "pool") == "[(True, True, 1, False)]"


@pytest.mark.parametrize(
    "kind", [KINDS[0], *(pytest.param(k, marks=pytest.mark.slow) for k in ("spawn", "forkserver"))]
)
def test_workers_of_a_pool_have_what_the_environment_says(tmp_path: Path, kind: str) -> None:
    assert workers(tmp_path, kind, "pool", FASTSOFTMAX_NUM_THREADS="3") == "[(True, True, 3, True)]"


@needs_fork
def test_workers_of_a_pool_have_what_was_set(tmp_path: Path) -> None:
    """By the process that they are forked from."""
    assert workers(tmp_path, "fork", "pool", "set") == "[(True, True, 2, True)]"


@pytest.mark.parametrize("kind", KINDS)
def test_process_pool_executor(tmp_path: Path, kind: str) -> None:
    """Its workers are no daemons."""
    assert workers(tmp_path, kind, "executor", FASTSOFTMAX_NUM_THREADS="2") == "[(True, True, 2, True)]"


def test_joblib(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    assert workers(tmp_path, "", "joblib", FASTSOFTMAX_NUM_THREADS="2") == "[(True, True, 2, True)]"


@needs_fork
@pytest.mark.parametrize("layer", LAYERS)
def test_data_loader_of_pytorch(layer: str) -> None:
    """Two workers, forked after use, twice; the main process goes on meanwhile."""
    pytest.importorskip("torch")
    code = """
        import torch
        fastsoftmax.softmax(inputs[1], axis=-1)
        expected = answers()

        class Rows(torch.utils.data.Dataset):
            def __len__(self):
                return 16
            def __getitem__(self, number):
                same = answers() == expected
                return torch.tensor([same, fastsoftmax.get_num_threads() == 1])

        good = []
        for _ in range(2):
            loader = torch.utils.data.DataLoader(Rows(), 4, num_workers=2, multiprocessing_context="fork")
            for batch in loader:
                good.append(bool(batch.all()) and answers() == expected)
        print(good == [True] * 8)
        """
    assert printed(code, **layer_of(layer)) == "True"
