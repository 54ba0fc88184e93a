"""Two pictures of a grid's numbers: bytes moved per second against size, and speed-ups shape by shape."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from fastsoftmax._bench.cases import COPY, FUNCTIONS, MACHINE, PEERS
from fastsoftmax._bench.grid import Result
from fastsoftmax._bench.peers import OURS


def draw(results: Sequence[Result], about: dict[str, Any], folder: Path) -> None:
    """Write `roofline.png` and `peers.png`."""
    shown = [r for r in results if r.case.dtype == "float32" and r.case.threads == 2 and r.case.out]
    versions = about["versions"]
    names = ("fastsoftmax", "numba", "numpy", *(peer for peer in PEERS if peer in versions))
    title = (
        f"{about['cpu']}, {about['instruction_set']}, {about['processors']} processors, 2 threads, float32\n"
        + ", ".join(f"{name} {versions[name]}" for name in names)
    )
    roofline(shown, title, folder / "roofline.png")
    peers(shown, title, folder / "peers.png")


def one_for_each_size(points: Iterable[tuple[float, float]]) -> list[tuple[float, ...]]:
    """The geometric means of points within the same power of two: shapes of one size would zigzag."""
    sizes: dict[int, list[tuple[float, float]]] = {}
    for size, value in points:
        sizes.setdefault(round(math.log2(size)), []).append((size, value))
    return [tuple(map(geometric_mean, zip(*some, strict=True))) for _, some in sorted(sizes.items())]


def roofline(results: Sequence[Result], title: str, path: Path) -> None:
    """Bytes that must be moved, per second, against the bytes of the array: classes on the last axis alone."""
    figure, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    last = [r for r in results if r.case.axis == -1 and not r.case.in_place]

    def line(function: str, contender: str, **style: Any) -> None:
        some = [r for r in last if r.case.function == function and contender in r.best]
        points = one_for_each_size((r.case.bytes, r.case.moved / r.best[contender] / 1e9) for r in some)
        axes.plot(*zip(*points, strict=True), **style)

    for function in FUNCTIONS:
        line(function, OURS, label=f"fastsoftmax {function}", marker="o", ms=4)
    for peer in (peer for peer in PEERS if any(peer in r.best for r in last)):
        line("softmax", peer, label=f"{peer} softmax", ls="--", lw=1, marker="x", ms=4)
    line("softmax", MACHINE, label="limit: parallel y = 2x", color="black", lw=2)
    line("logsumexp", MACHINE, label="limit: parallel sum", color="black", lw=2, ls=":")
    axes.set(xscale="log", yscale="log", xlabel="bytes of the logits", ylabel="GB/s read and written at least once")
    axes.set_title(title, fontsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def peers(results: Sequence[Result], title: str, path: Path) -> None:
    """How many times as fast as each peer, for softmax and for the loss with its gradient."""
    figure, grid = plt.subplots(2, 1, figsize=(12, 9), layout="constrained")
    for axes, function in zip(grid, ("softmax", "cross_entropy_with_grad"), strict=True):
        some = [r for r in results if r.case.function == function]
        there = [peer for peer in (COPY, *PEERS) if any(peer in r.best for r in some)]
        width = 0.8 / len(there)
        for i, peer in enumerate(there):
            ups = [r.best[peer] / r.best[OURS] if peer in r.best else 0 for r in some]
            axes.bar([x + i * width for x in range(len(some))], ups, width, label=peer)
        axes.axhline(1, color="black", lw=0.8)
        names = [r.case.name.removeprefix(function).strip() for r in some]
        axes.set_xticks([x + 0.4 - width / 2 for x in range(len(some))], names, rotation=40, ha="right", fontsize=7)
        axes.set(yscale="log", ylabel=f"{function}:\ntimes as fast as")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(fontsize=7, ncols=len(there))
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
