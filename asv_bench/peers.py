"""The contenders of `compare.py`: the ways in which each library computes a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from benchmarks._measure import Call
from cases import COPY, ONNX_RUNTIME, PYTORCH, SCIPY, Case

import fastsoftmax

THREADS = 2
OURS = "fastsoftmax"


@dataclass(frozen=True)
class Data:
    """What all contenders are given."""

    logits: np.ndarray
    labels: np.ndarray  # class indices, for the losses

    @staticmethod
    def of(case: Case) -> Data:
        rng = np.random.default_rng(0)
        logits = rng.standard_normal(case.shape, dtype=np.float32)
        logits *= 3
        return Data(logits, rng.integers(0, case.shape[case.axis], case.row_shape))


@dataclass(frozen=True)
class Contender:
    """A call to time, and the way to read its results back afterwards."""

    call: Call
    results: Callable[[], tuple[np.ndarray, ...]]


# A peer turns a case and its data into contenders; none if the library has no such function. There may be several ways
# to call a library: its fastest counts. A module that is missing raises ImportError.
Peer = Callable[[Case, Data], Iterator[Contender]]


def result_like(case: Case, x: np.ndarray) -> np.ndarray:
    return np.empty(case.row_shape if case.function == "logsumexp" else case.shape, x.dtype)


def ours(case: Case, data: Data) -> Iterator[Contender]:
    function = getattr(fastsoftmax, case.function)
    x, labels, axis = data.logits, data.labels, case.axis
    if case.function == "cross_entropy":
        call = partial(function, x, labels, axis=axis)
        yield Contender(call, lambda: (call(),))
    elif case.in_place:
        # Each call takes the last one's gradient for its logits. The time is the same, and
        # refilling them would be a copy in itself. The results are those of fresh logits.
        def in_place(work: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return function(work, labels, axis=axis, out=work)

        yield Contender(partial(in_place, x.copy()), lambda: in_place(x.copy()))
    elif case.function == "cross_entropy_with_grad":
        call = partial(function, x, labels, axis=axis, out=np.empty_like(x))
        yield Contender(call, call)
    else:
        out = result_like(case, x)
        yield Contender(partial(function, x, axis=axis, out=out), lambda: (out,))


def copy(case: Case, data: Data) -> Iterator[Contender]:
    """Copy the logits, whatever the function: the least that reading and writing them can take."""
    out = np.empty_like(data.logits)
    yield Contender(partial(np.copyto, out, data.logits), lambda: (out,))


def onnx_runtime(case: Case, data: Data) -> Iterator[Contender]:
    import onnxruntime

    # Its operators for losses are those of another package, made for training.
    if case.function not in {"softmax", "logsumexp"}:
        return
    x = data.logits
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(onnx_model(case.function), options, providers=["CPUExecutionProvider"])
    out = result_like(case, x)
    # Both values share the memory of the NumPy arrays: nothing is copied or allocated in a call.
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(out))
    yield Contender(partial(session.run_with_iobinding, binding), lambda: (out,))
    if x.size < 2**16:
        # Where an allocation is nothing, the plain call is the quicker one.
        plain = partial(session.run, ["y"], {"x": x})
        yield Contender(plain, lambda: tuple(plain()))


def onnx_model(function: str) -> bytes:
    """Build a model of the one node, for two-dimensional float32 input."""
    from onnx import TensorProto, checker, helper

    if function == "softmax":
        node = helper.make_node("Softmax", ["x"], ["y"], axis=-1)
        result = ["rows", "classes"]
    else:
        node = helper.make_node("ReduceLogSumExp", ["x"], ["y"], axes=[-1], keepdims=0)
        result = ["rows"]
    graph = helper.make_graph(
        [node],
        function,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", "classes"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
    )
    # Opset 13, and the file format of its time, are read by every release of ONNX Runtime in use.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def pytorch(case: Case, data: Data) -> Iterator[Contender]:
    import torch

    torch.set_num_threads(THREADS)
    logits, labels = torch.from_numpy(data.logits), torch.from_numpy(data.labels)
    cross_entropy = torch.nn.functional.cross_entropy
    if case.function == "cross_entropy":
        loss_alone = torch.no_grad()(partial(cross_entropy, logits, labels))
        yield Contender(loss_alone, lambda: (loss_alone().numpy(),))
    elif case.function == "cross_entropy_with_grad":
        logits.requires_grad_()

        def forward_and_backward() -> torch.Tensor:
            logits.grad = None
            loss = cross_entropy(logits, labels)
            loss.backward()
            return loss.detach()

        # The loss comes first, for it makes the gradient that is read then.
        yield Contender(forward_and_backward, lambda: (forward_and_backward().numpy(), logits.grad.numpy()))
    else:
        out = result_like(case, data.logits)
        call = partial(getattr(torch, case.function), logits, -1, out=torch.from_numpy(out))
        yield Contender(call, lambda: (out,))


def scipy(case: Case, data: Data) -> Iterator[Contender]:
    from scipy import special

    if case.function in {"softmax", "logsumexp"}:
        call = partial(getattr(special, case.function), data.logits, axis=case.axis)
        yield Contender(call, lambda: (call(),))


PEERS: dict[str, Peer] = {
    OURS: ours,
    COPY: copy,
    ONNX_RUNTIME: onnx_runtime,
    PYTORCH: pytorch,
    SCIPY: scipy,
}
