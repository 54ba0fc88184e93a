"""The contenders: the ways in which each library computes a case. Libraries that are not installed are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

import fastsoftmax

from .cases import BACKWARD, COPY, GRADIENT, JAX, MACHINE, NUMPY, ONNX_RUNTIME, PYTORCH, REDUCTIONS, SCIPY, Case
from .measure import Call

OURS = "fastsoftmax"
Results = tuple[Any, ...]


@dataclass(frozen=True)
class Data:
    """What all contenders are given: `output` is what the backward functions take besides a gradient."""

    logits: np.ndarray
    labels: np.ndarray
    output: np.ndarray | None

    @staticmethod
    def of(case: Case) -> Data:
        rng = np.random.default_rng(0)
        logits = (rng.standard_normal(case.shape, dtype=np.float32) * np.float32(3)).astype(numpy_dtype(case.dtype))
        labels = rng.integers(0, case.shape[case.axis], case.row_shape)
        output = None
        if case.function in BACKWARD:
            forward = getattr(fastsoftmax, case.function.removesuffix("_backward"))
            output = forward(logits[::-1] if len(logits) > 1 else logits[:, ::-1], axis=case.axis)
        return Data(logits, labels, output)


@dataclass(frozen=True)
class Contender:
    """A call to time, and the way to read its results back afterwards."""

    call: Call
    results: Callable[[], Results]


# A peer turns a case and its data into contenders; none if the library has no such function. There may be several ways
# to call a library: its fastest counts. A module that is missing raises ImportError.
Peer = Callable[[Case, Data], Iterator[Contender]]


def numpy_dtype(name: str) -> Any:
    """The dtype of this name; bfloat16 is that of ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def result_like(case: Case, x: np.ndarray) -> np.ndarray:
    return np.empty(case.row_shape if case.function == "logsumexp" else case.shape, x.dtype)


def plain(call: Callable[[], Any]) -> Contender:
    """A call that returns its one result."""
    return Contender(call, lambda: (call(),))


def ours(case: Case, data: Data) -> Iterator[Contender]:
    fastsoftmax.set_num_threads(case.threads)
    function = getattr(fastsoftmax, case.function)
    x, axis = data.logits, case.axis
    if case.in_place:
        # Each call takes the last one's gradient for its logits. The time is the same, and
        # refilling them would be a copy in itself. The results are those of fresh logits.
        def in_place(work: np.ndarray) -> Results:
            return tuple(function(work, data.labels, axis=axis, out=work))

        yield Contender(partial(in_place, x.copy()), lambda: in_place(x.copy()))
        return
    given: tuple[Any, ...] = (x,)
    if case.function in {"cross_entropy", GRADIENT}:
        given = x, data.labels
    elif case.function in BACKWARD:
        given = x, data.output
    options: dict[str, Any] = {"axis": axis}
    if case.out and case.function != "cross_entropy":
        options["out"] = result_like(case, x)
    call = partial(function, *given, **options)
    yield Contender(call, call) if case.function == GRADIENT else plain(call)


def copy(case: Case, data: Data) -> Iterator[Contender]:
    """Copy the logits, whatever the function: the least that reading and writing them can take on one thread."""
    yield plain(partial(np.copyto, np.empty_like(data.logits), data.logits))


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _doubled(x: Any, out: Any) -> None:
    for i in numba.prange(x.size):
        out[i] = x[i] * 2


@numba.njit(parallel=True, nogil=True)  # type: ignore[untyped-decorator]
def _summed(x: Any) -> Any:
    total = 0
    for i in numba.prange(x.size):
        total += x[i]
    return total


def machine(case: Case, data: Data) -> Iterator[Contender]:
    """A plain parallel loop over the same bytes: what reads them, or reads and writes them, as fast as there is.

    It has the threads that Numba has been given.
    """
    if case.function in BACKWARD:
        return
    flat = data.logits.reshape(-1).view(np.uint8)
    words = flat[: flat.size // 8 * 8].view(np.int64)
    yield plain(partial(_summed, words) if case.function in REDUCTIONS else partial(_doubled, words, words.copy()))


def onnx_runtime(case: Case, data: Data) -> Iterator[Contender]:
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoSuchKernel

    operator = {"softmax": "Softmax", "log_softmax": "LogSoftmax", "logsumexp": "ReduceLogSumExp"}.get(case.function)
    # Its operators for losses are those of another package, made for training.
    if operator is None or case.dtype == "bfloat16":
        return
    x = data.logits
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    model = onnx_model(operator, case)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except NoSuchKernel:  # older releases, for float16
        return
    if case.out:
        out = result_like(case, x)
        # Both values share the memory of the NumPy arrays: nothing is copied or allocated in a call.
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
        binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(out))
        yield Contender(partial(session.run_with_iobinding, binding), lambda: (out,))
    if x.size < 2**16 or not case.out:
        # Where an allocation is nothing, the plain call is the quicker one.
        call = partial(session.run, ["y"], {"x": x})
        yield Contender(call, lambda: tuple(call()))


def onnx_model(operator: str, case: Case) -> Any:
    """Build a model of the one node."""
    from onnx import TensorProto, checker, helper

    axis = case.axis % len(case.shape)
    if operator == "ReduceLogSumExp":
        node = helper.make_node(operator, ["x"], ["y"], axes=[axis], keepdims=0)
    else:
        node = helper.make_node(operator, ["x"], ["y"], axis=axis)
    kinds = {"float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
    kind = kinds[case.dtype]
    result = case.row_shape if operator == "ReduceLogSumExp" else case.shape
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info("x", kind, list(case.shape))],
        [helper.make_tensor_value_info("y", kind, list(result))],
    )
    # Opset 13, and the file format of its time, are read by every release of ONNX Runtime in use.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def pytorch(case: Case, data: Data) -> Iterator[Contender]:
    import torch

    torch.set_num_threads(case.threads)

    # PyTorch reads no bfloat16 of NumPy's, but its bits.
    def as_tensor(x: np.ndarray) -> Any:
        if case.dtype != "bfloat16":
            return torch.from_numpy(x)
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)

    def as_array(tensor: Any) -> Any:
        tensor = tensor.detach()
        if tensor.dtype is not torch.bfloat16:
            return tensor.numpy()
        return tensor.view(torch.int16).numpy().view(data.logits.dtype)

    logits, axis = as_tensor(data.logits), case.axis
    if case.function in {"cross_entropy", GRADIENT}:
        labels = torch.from_numpy(data.labels)
        # It takes the classes from the second axis alone.
        logits = logits.movedim(axis, 1)
        loss_of = partial(torch.nn.functional.cross_entropy, logits, labels)
        if case.function == "cross_entropy":
            alone = torch.no_grad()(loss_of)
            yield Contender(alone, lambda: (as_array(alone()),))
            return
        leaf = logits.requires_grad_()

        def forward_and_backward() -> Any:
            leaf.grad = None
            loss = loss_of()
            loss.backward()
            return loss.detach()

        # The loss comes first, for it makes the gradient that is read then.
        yield Contender(
            forward_and_backward, lambda: (as_array(forward_and_backward()), as_array(leaf.grad.movedim(1, axis)))
        )
        return
    if case.function in BACKWARD:
        gradient_of = getattr(torch.ops.aten, f"_{case.function}_data")
        given = logits, as_tensor(np.ascontiguousarray(data.output)), axis, logits.dtype
        out = as_tensor(result_like(case, data.logits))
        named = {"grad_input" if case.function == "softmax_backward" else "out": out}
        call = partial(gradient_of.out, *given, **named) if case.out else partial(gradient_of, *given)
    else:
        function = getattr(torch, case.function)
        out = as_tensor(result_like(case, data.logits))
        call = partial(function, logits, axis, **({"out": out} if case.out else {}))
    yield Contender(call, lambda: (as_array(call()),))


def jax(case: Case, data: Data) -> Iterator[Contender]:
    import jax
    import jax.numpy as jnp

    # It uses all processors there are, whatever it is told.
    if case.threads < fastsoftmax.show_config(mode="dicts")["processors"]:
        return
    jax.config.update("jax_enable_x64", True)
    axis = case.axis

    def loss(x: Any, labels: Any) -> Any:
        logs = jax.nn.log_softmax(x, axis=axis)
        return -jnp.take_along_axis(logs, jnp.expand_dims(labels, axis), axis=axis).mean()

    functions: dict[str, Callable[..., Any]] = {
        "softmax": lambda x: jax.nn.softmax(x, axis=axis),
        "log_softmax": lambda x: jax.nn.log_softmax(x, axis=axis),
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis=axis),
        "cross_entropy": loss,
        GRADIENT: jax.value_and_grad(loss),
        "softmax_backward": lambda g, y: y * (g - (g * y).sum(axis, keepdims=True)),
        "log_softmax_backward": lambda g, y: g - jnp.exp(y) * g.sum(axis, keepdims=True),
    }
    function = jax.jit(functions[case.function])
    # All are arguments: what a function closes over is a constant to the compiler, which computes with it.
    given: tuple[Any, ...] = (jnp.asarray(data.logits),)
    if data.output is not None:
        given += (jnp.asarray(data.output),)
    elif case.function in {"cross_entropy", GRADIENT}:
        given += (jnp.asarray(data.labels),)

    def call() -> Any:
        return jax.block_until_ready(function(*given))

    def results() -> Results:
        got = call()
        return tuple(np.asarray(part) for part in (got if case.function == GRADIENT else (got,)))

    yield Contender(call, results)


def scipy(case: Case, data: Data) -> Iterator[Contender]:
    from scipy import special

    if case.function in {"softmax", "log_softmax", "logsumexp"} and case.dtype != "bfloat16":
        yield plain(partial(getattr(special, case.function), data.logits, axis=case.axis))


def plain_numpy(case: Case, data: Data) -> Iterator[Contender]:
    """The formulas as everybody writes them; bfloat16 is no type of NumPy's own."""
    if case.dtype == "bfloat16":
        return
    x: Any = data.logits
    y: Any = data.output
    axis = case.axis
    at = np.expand_dims(data.labels, axis)

    def exponentials() -> tuple[Any, Any]:
        z = x - x.max(axis=axis, keepdims=True)
        return z, np.exp(z)

    def softmax() -> Any:
        _, e = exponentials()
        return e / e.sum(axis=axis, keepdims=True)

    def log_softmax() -> Any:
        z, e = exponentials()
        return z - np.log(e.sum(axis=axis, keepdims=True))

    def logsumexp() -> Any:
        top = x.max(axis=axis, keepdims=True)
        return (np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top).squeeze(axis)

    def cross_entropy() -> Any:
        return -np.take_along_axis(log_softmax(), at, axis).mean()

    def with_gradient() -> Results:
        p = softmax()
        p_t = np.take_along_axis(p, at, axis)
        np.put_along_axis(p, at, p_t - 1, axis)
        p *= 1 / at.size  # not divided: float16 ends at 65504
        return -np.log(p_t).mean(), p

    calls: dict[str, Callable[[], Any]] = {
        "softmax": softmax,
        "log_softmax": log_softmax,
        "logsumexp": logsumexp,
        "cross_entropy": cross_entropy,
        GRADIENT: with_gradient,
        "softmax_backward": lambda: y * (x - (x * y).sum(axis=axis, keepdims=True)),
        "log_softmax_backward": lambda: x - np.exp(y) * x.sum(axis=axis, keepdims=True),
    }
    call = calls[case.function]
    yield Contender(call, call) if case.function == GRADIENT else plain(call)


ALL: dict[str, Peer] = {
    OURS: ours,
    COPY: copy,
    MACHINE: machine,
    PYTORCH: pytorch,
    ONNX_RUNTIME: onnx_runtime,
    JAX: jax,
    SCIPY: scipy,
    NUMPY: plain_numpy,
}
