"""The loops over an array, one for each layout, and the kernels: each loop with each operation's work.

A loop shares its units among `tasks` and does those from `first` to `last` (see `jit.Loop`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import types

from . import (
    backward,
    batches,
    column_gradients,
    columns,
    labels,
    loss_batches,
    loss_blocks,
    loss_columns,
    losses,
    pairs,
    row_batches,
    rows,
    soft_targets,
    split,
    weighted,
)
from .ahead import ask_for_rows, batches_ahead
from .batches import TERM_VECTORS, rows_at_once
from .column_loops import in_flight, over_columns, over_narrow
from .interleaved import A_NUMBER, over_interleaved
from .jit import (
    LABELS,
    LIMITS,
    NUMBER,
    OBJECT,
    SCALE,
    TABLE,
    TERMS,
    Argument,
    Kernel,
    Loop,
    array,
    loss,
    planned,
)
from .lengths import BLOCK, GROUPS
from .loss_loops import LossLoop
from .objects import CONTIGUOUS
from .simd import doubles, wide, width
from .small import PLACE, over_small, over_small_gradients, over_small_losses, to_out, to_table
from .small_columns import over_small_column_gradients, over_small_column_losses, over_small_columns
from .transposed import no_columns
from .views import from_row, lanes_of, scratch, view


def over_rows(work):
    """``work(x, out, start, stop, extra)`` for runs of rows of ``x[row, class]``."""

    def loop(first, last, tasks, x, out, extra):
        n = x.shape[0]
        for task in range(first, last):
            start, stop = n * task // tasks, n * (task + 1) // tasks
            work(view(x), view(out), start, stop, view(extra))

    return loop


def over_batches(work, groups):
    """``work(like, x, out, row, count, extra, rooms)`` for a batch of rows at a time, and what is left of them.

    `x` and `out` begin with these rows, `row` is the first of them in `extra`. A batch is up to so many `groups`.
    """

    def loop(first, last, tasks, x, out, extra):
        n = x.shape[0]
        for task in range(first, last):
            logits, results, more = view(x), view(out), view(extra)
            like = lanes_of(logits)
            eight, many, w = doubles(0.0), wide(like), width(like)
            rooms = batches.Rooms(
                vectors=scratch(like, groups, 16),
                numbers=scratch(like, groups, 16),
                sums=scratch(eight, groups, 16),
                rests=scratch(eight, groups, 16),
                terms=scratch(like, groups, TERM_VECTORS),
                asked=scratch(many, groups, 8),
            )
            ahead, many_rows = batches_ahead(like, logits) * w, rows_at_once(like, logits, groups)
            for row in range(n * task // tasks, n * (task + 1) // tasks, many_rows):
                count = min(n * (task + 1) // tasks - row, many_rows)
                if ahead:
                    ask_for_rows(logits, row + ahead, many_rows, False)
                    ask_for_rows(results, row + ahead, many_rows, True)
                work(like, from_row(logits, row), from_row(results, row), row, count, more, rooms)

    return loop


def over_single_blocks(work):
    """``work(x, out, states, row, block, extra)`` for each block of each row."""

    def loop(first, last, tasks, x, out, states, extra):
        blocks = states.shape[1]
        units = x.shape[0] * blocks
        for task in range(first, last):
            for unit in range(units * task // tasks, units * (task + 1) // tasks):
                work(view(x), view(out), states, unit // blocks, unit % blocks, view(extra))

    return loop


def over_rows_of_blocks(work):
    """What is done before or between the launches of a loss: row by row, on one thread."""

    def loop(first, last, tasks, x, states, extra):
        for row in range(x.shape[0]):
            work(view(x), states, row, view(extra))

    return loop


def over_blocks(work):
    """``work(x, out, states, row, start, stop, extra)`` for runs of blocks of each row."""

    def loop(first, last, tasks, x, out, states, extra):
        blocks, n = states.shape[1], x.shape[1]
        units = x.shape[0] * blocks
        for task in range(first, last):
            unit, stop = units * task // tasks, units * (task + 1) // tasks
            while unit < stop:
                row, block = unit // blocks, unit % blocks
                end = min(block + stop - unit, blocks)
                work(view(x), view(out), states, row, block * BLOCK, min(end * BLOCK, n), view(extra))
                unit += end - block

    return loop


def numbers(ndim: int) -> Argument:
    """An array of float64 numbers, whatever the kernel is for."""
    return array(ndim, types.float64)


def _kernels(
    operation: str, extra: tuple[Argument, Argument], out: Callable[[int], Argument] = planned, **layouts: Any
) -> dict[str, Loop]:
    """The kernels of an operation, by layout; `out` is what they write, if not of the logits' shape and type."""
    flat, deep = extra
    made: dict[str, Loop] = {}
    arguments: tuple[Argument, ...]
    for layout, loop in layouts.items():
        if layout == "split":
            arguments = (planned(2), out(2), numbers(3), flat)
        elif layout in ("columns", "interleaved"):
            arguments = (planned(3), out(3), deep)
        else:
            arguments = (planned(2), out(2), flat)
        if flat.kind == "loss" and layout != "split":
            made[layout] = LossLoop(f"{operation}_{layout}", loop, (*arguments, array(1, types.int64), LIMITS))
        else:
            made[layout] = Loop(f"{operation}_{layout}", loop, arguments)
    return made


# operation -> kernel for small plain rows
_ONE, _TWO = (OBJECT,) * 3, (OBJECT,) * 4
_LABELLED = (OBJECT, LABELS, OBJECT, OBJECT, OBJECT, NUMBER, NUMBER)
SMALL_KERNELS = {
    name: Kernel(f"{name}_small", function, arguments)
    for name, function, arguments in (
        ("softmax", over_small(rows.softmax_rows, "softmax"), _ONE),
        ("log_softmax", over_small(rows.log_softmax_rows, "log_softmax"), _ONE),
        ("logsumexp", over_small(rows.logsumexp_rows, "logsumexp", reduces=True), _ONE),
        ("softmax_backward", over_small_gradients(backward.softmax_backward_rows.rows), _TWO),
        ("log_softmax_backward", over_small_gradients(backward.log_softmax_backward_rows.rows), _TWO),
        ("cross_entropy", over_small_losses(losses.loss_rows, to_table, CONTIGUOUS), _LABELLED),
        ("cross_entropy_with_grad", over_small_losses(losses.loss_with_gradient_rows, to_out, PLACE), _LABELLED),
    )
}
SMALL_COLUMN_KERNELS = {
    name: Kernel(f"{name}_small_columns", function, (*arguments, NUMBER))
    for name, function, arguments in (
        ("softmax", over_small_columns(columns.softmax_columns), _ONE),
        ("log_softmax", over_small_columns(columns.log_softmax_columns), _ONE),
        ("logsumexp", over_small_columns(columns.logsumexp_columns, reduces=True), _ONE),
        ("softmax_backward", over_small_column_gradients(column_gradients.softmax_backward_columns), _TWO),
        ("log_softmax_backward", over_small_column_gradients(column_gradients.log_softmax_backward_columns), _TWO),
        ("cross_entropy", over_small_column_losses(loss_columns.loss_columns, to_table, CONTIGUOUS), _LABELLED),
        (
            "cross_entropy_with_grad",
            over_small_column_losses(loss_columns.loss_with_gradient_columns, to_out, PLACE),
            _LABELLED,
        ),
    )
}

# operation -> layout -> kernel
KERNELS: dict[str, dict[str, Loop]] = {
    "softmax": _kernels(
        "softmax",
        (SCALE, SCALE),
        rows=over_rows(rows.softmax_rows),
        pairs=over_rows(pairs.softmax_pairs),
        narrow=over_narrow(columns.softmax_columns, at_once=in_flight),
        batches=over_batches(row_batches.softmax_batch, GROUPS),
        columns=over_columns(columns.softmax_columns),
        interleaved=over_interleaved(rows.softmax_rows),
        split=over_blocks(split.softmax_blocks),
    ),
    "log_softmax": _kernels(
        "log_softmax",
        (SCALE, SCALE),
        rows=over_rows(rows.log_softmax_rows),
        pairs=over_rows(pairs.log_softmax_pairs),
        narrow=over_narrow(columns.log_softmax_columns, at_once=in_flight),
        batches=over_batches(row_batches.log_softmax_batch, GROUPS),
        columns=over_columns(columns.log_softmax_columns),
        interleaved=over_interleaved(rows.log_softmax_rows),
        split=over_blocks(split.log_softmax_blocks),
    ),
    "logsumexp": _kernels(
        "logsumexp",
        (SCALE, SCALE),
        array,
        rows=over_rows(rows.logsumexp_rows),
        narrow=over_narrow(columns.logsumexp_columns, at_once=in_flight),
        batches=over_batches(row_batches.logsumexp_batch, GROUPS),
        columns=over_columns(columns.logsumexp_columns),
        interleaved=over_interleaved(rows.logsumexp_rows, A_NUMBER),
        split=over_blocks(split.logsumexp_blocks),
    ),
    "softmax_backward": _kernels(
        "softmax_backward",
        (planned(2), planned(3)),
        rows=over_rows(backward.softmax_backward_rows.rows),
        narrow=over_narrow(column_gradients.softmax_backward_columns),
        columns=over_columns(column_gradients.softmax_backward_columns),
        interleaved=over_interleaved(backward.softmax_backward_rows.rows),
        split=over_blocks(backward.softmax_backward_rows.blocks),
    ),
    "log_softmax_backward": _kernels(
        "log_softmax_backward",
        (planned(2), planned(3)),
        rows=over_rows(backward.log_softmax_backward_rows.rows),
        narrow=over_narrow(column_gradients.log_softmax_backward_columns),
        columns=over_columns(column_gradients.log_softmax_backward_columns),
        interleaved=over_interleaved(backward.log_softmax_backward_rows.rows),
        split=over_blocks(backward.log_softmax_backward_rows.blocks),
    ),
    "cross_entropy": _kernels(
        "cross_entropy",
        (loss(2), loss(3)),
        numbers,
        rows=over_rows(losses.loss_rows),
        batches=over_batches(loss_batches.loss_batch, 1),
        narrow=over_narrow(loss_columns.loss_columns, no_columns, in_flight),
        columns=over_columns(loss_columns.loss_columns),
        interleaved=over_interleaved(losses.loss_rows, A_NUMBER),
    ),
    "cross_entropy_with_grad": _kernels(
        "cross_entropy_with_grad",
        (loss(2), loss(3)),
        rows=over_rows(losses.loss_with_gradient_rows),
        batches=over_batches(loss_batches.loss_with_gradient_batch, 1),
        narrow=over_narrow(loss_columns.loss_with_gradient_columns),
        columns=over_columns(loss_columns.loss_with_gradient_columns),
        interleaved=over_interleaved(losses.loss_with_gradient_rows),
        split=over_blocks(loss_blocks.gradient_blocks),
    ),
}
# log|sum(b * exp(a))| and its sign, float64 alone.
WEIGHTED = Loop("weighted_rows", over_rows(weighted.weighted_rows), (array(2), array(2), array(2)))

# Rows of a block in float64: losses that are not linear in the probabilities or have distributions for targets.
_ROWS, _PER_CLASS = array(2), array(1)
SOFT_TARGETS = Kernel(
    "soft_rows", soft_targets.soft_rows, (_ROWS, array(2), _ROWS, _ROWS, _PER_CLASS, TERMS, SCALE, NUMBER)
)
CAP = Kernel("cap_rows", soft_targets.cap_rows, (_ROWS, _ROWS, TERMS))
READ_LABELS = Loop(
    "read_labels",
    labels.read_labels,
    (array(1, types.int64), numbers(2), array(2, types.int64), LIMITS),
)
READ_FEW_LABELS = Kernel("read_few_labels", labels.read_few_labels, (LABELS, TABLE, NUMBER, NUMBER))
SUM = Kernel("sum_numbers", soft_targets.sum_numbers, (TABLE,))

# operation -> first launch of the split layout, which finds the states
_FIRST = (array(2), array(2), numbers(3), SCALE)


def _block_sums(operation: str, work: Any) -> Loop:
    return Loop(f"{operation}_sums", over_single_blocks(work), (*_FIRST[:-1], array(2)))


_STATES = Loop("block_states", over_single_blocks(split.state_of_block), _FIRST)
_OF_LOSS = (*_FIRST[:-1], loss(2))
BLOCK_STATES = {
    "softmax": Loop("softmax_states", over_single_blocks(split.state_and_terms), _FIRST),
    "log_softmax": _STATES,
    "logsumexp": _STATES,
    "cross_entropy": Loop("loss_states", over_single_blocks(loss_blocks.state_of_block), _OF_LOSS),
    "cross_entropy_with_grad": Loop("gradient_states", over_single_blocks(loss_blocks.state_and_terms), _OF_LOSS),
    "softmax_backward": _block_sums("softmax_backward", backward.softmax_backward_rows.sum_of_block),
    "log_softmax_backward": _block_sums("log_softmax_backward", backward.log_softmax_backward_rows.sum_of_block),
}
# Before, with label smoothing, and between the launches of losses.
_BETWEEN = (array(2), numbers(3), loss(2))
SMOOTHING_OF_ROWS = Loop("smoothing_of_rows", over_rows_of_blocks(loss_blocks.smoothing_of_row), _BETWEEN)
ROWS_OF_BLOCKS = Loop("rows_of_blocks", over_rows_of_blocks(loss_blocks.row_of_blocks), _BETWEEN)
