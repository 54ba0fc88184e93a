"""Softmax, log-sum-exp and cross-entropy on the CPU, at the speed of memory and right to the last digits.

Importing this package compiles nothing; each kernel is compiled when a call first needs it, and
kept in a cache.
"""

from ._config import show_config, warmup
from ._cross_entropy import cross_entropy, cross_entropy_with_grad
from ._execute import get_num_threads, set_num_threads, threads
from ._softmax import log_softmax, log_softmax_backward, logsumexp, softmax, softmax_backward
from ._version import __version__

__all__ = [
    "__version__",
    "cross_entropy",
    "cross_entropy_with_grad",
    "get_num_threads",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_backward",
    "threads",
    "warmup",
]
