"""The share of each kind of work in a profile of training steps, ``launch.bench --trace``.

Where the profile has kernels of a device, their time counts, and the operator that has started a kernel gives its kind.
``idle`` is the time from the first kernel to the last in which none runs. Kernels that run at the same time count each.

Otherwise the time that each operator spends in itself counts, without the operators that it calls. ``between
operators`` is the rest of the time of the thread that computes: Python.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
HOST_COPIES, COPIES, OTHER, IDLE, BETWEEN = "host-device copies", "copies", "other", "idle", "between operators"
KINDS = {  # the first pattern that is found in a name, of an operator or of a kernel of cuDNN, cuBLAS, NCCL or torch
    "all-reduce": r"nccl|hccl|gloo|all_?reduce",
    HOST_COPIES: r"memcpy (htod|dtoh)",
    "CTC": r"ctc",
    "recurrent layers": r"lstm|gru|rnn",
    "convolutions": r"conv(?!ert)|wgrad|dgrad|fft",
    "matrix products": r"\bt?mm\b|addmm|bmm|matmul|linear|gemm|cutlass|splitk",
    "optimizer": r"adam|sgd|foreach|multi_tensor",
    "batch norm": r"batch_?norm|\b_norm|\bbn_",
    COPIES: r"copy|memcpy|memset|clone|contiguous|index_?(select|add|put)|gather|scatter|\bcat\b|catarray|stack|flip"
    r"|::to\b|repeat|\bpad\b",
    "reductions": r"reduce|softmax|vector_norm|\b(sum|mean|amax|amin|max|min|any|all|norm|logsumexp|cumsum|argmax)\b",
    "elementwise": r"elementwise|where|hardtanh|sigmoid|tanh|masked_fill|clamp|isfinite|\brand|"
    r"\b(add|sub|rsub|mul|div|addcmul|addcdiv|pow|square|sqrt|rsqrt|exp|log|log1p|neg|reciprocal|lerp|maximum|minimum|"
    r"eq|ne|lt|le|gt|ge|logical_\w+|bitwise_\w+|zero|fill|arange)_?\b",
}
_OF_THE_CALLER = ("elementwise", "reductions", OTHER)  # within a convolution, say, they are a part of it


def shares(trace: Mapping[str, Any]) -> dict[str, float]:
    """The share of each kind (0 to 1), the largest first; empty for a profile without operators.

    Args:
      trace: the content of the file, in Chrome's format.
    """
    events = [event for event in trace.get("traceEvents", ()) if event.get("ph") == "X"]
    kernels = [event for event in events if event.get("cat") in _ON_DEVICE]
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    found = _of_kernels(kernels, operators) if kernels else _of_operators(operators)
    seconds: dict[str, float] = defaultdict(float)
    for kind, duration in found:
        seconds[kind] += duration
    total = sum(seconds.values())
    ordered = sorted(seconds, key=lambda kind: -seconds[kind])
    return {kind: seconds[kind] / total for kind in ordered if seconds[kind] > 0} if total > 0 else {}


def kind_of(name: str) -> str:
    """The kind of an operator or kernel.

    >>> kind_of("aten::mkldnn_rnn_layer_backward"), kind_of("aten::add_"), kind_of("ncclDevKernel_AllReduce_Sum_f32")
    ('recurrent layers', 'elementwise', 'all-reduce')
    """
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), OTHER)


def _of_kernels(kernels: Sequence[Event], operators: Iterable[Event]) -> Iterator[tuple[str, float]]:
    names = {event.get("args", {}).get("External id"): event["name"] for event in operators}
    for kernel in kernels:
        own = kind_of(kernel["name"])
        started_by = kind_of(names.get(kernel.get("args", {}).get("External id"), ""))
        by_itself = started_by == OTHER or own in ("all-reduce", HOST_COPIES)
        yield own if by_itself else started_by, float(kernel["dur"])
    yield IDLE, _idle(kernels)


def _of_operators(operators: Iterable[Event]) -> Iterator[tuple[str, float]]:
    """The time of each operator in itself; an operator without a kind has the kind of the one that calls it."""
    threads: dict[Any, list[Event]] = defaultdict(list)
    for event in operators:
        threads[event.get("tid")].append(event)
    for events in threads.values():
        yield from _of_a_thread(events)
    busiest = max(threads.values(), key=lambda events: sum(event["dur"] for event in events), default=[])
    yield BETWEEN, _idle(busiest)


def _of_a_thread(operators: Iterable[Event]) -> Iterator[tuple[str, float]]:
    stack: list[list[Any]] = []  # of the operators that are open: end, kind, time in itself
    closed = []
    for event in sorted(operators, key=lambda event: (event["ts"], -event["dur"])):
        while stack and stack[-1][0] <= event["ts"]:
            closed.append(stack.pop())
        kind = kind_of(event["name"])
        if stack:
            stack[-1][2] -= event["dur"]
            kind = stack[-1][1] if kind in _OF_THE_CALLER and stack[-1][1] != OTHER else kind
        stack.append([event["ts"] + event["dur"], kind, event["dur"]])
    for _, kind, duration in [*closed, *stack]:
        yield kind, max(0.0, float(duration))


def _idle(events: Iterable[Event]) -> float:
    """The time from the first event to the last in which there is none."""
    ordered = sorted(events, key=lambda event: event["ts"])
    idle, until = 0.0, ordered[0]["ts"] if ordered else 0.0
    for event in ordered:
        idle += max(0.0, event["ts"] - until)
        until = max(until, event["ts"] + event["dur"])
    return idle
