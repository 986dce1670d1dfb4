"""The share of each kind of work in a profile of a training step, ``launch.bench --trace``.

Where the profile has kernels of a device, their time counts, and the operator that has started a kernel gives its kind.
Otherwise the time that each operator spends in itself counts, without the operators that it calls.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
KINDS = {
    "CTC": r"ctc",
    "recurrent layers": r"lstm|gru|rnn",
    "convolutions": r"conv",
    "matrix products": r"\bt?mm\b|addmm|bmm|matmul|linear|gemm",
    "optimizer": r"adam|sgd|foreach|multi_tensor",
    "copies": r"copy|memcpy|memset|clone|contiguous|index_select|\bcat\b|flip",
}
OTHER = "other"


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
    return {kind: seconds[kind] / total for kind in ordered} if total > 0 else {}


def kind_of(name: str) -> str:
    """The kind of an operator or kernel.

    >>> kind_of("aten::mkldnn_rnn_layer_backward"), kind_of("aten::add_")
    ('recurrent layers', 'other')
    """
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), OTHER)


def _of_kernels(
    kernels: Iterable[Mapping[str, Any]], operators: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, float]]:
    names = {event.get("args", {}).get("External id"): event["name"] for event in operators}
    for kernel in kernels:
        started_by = names.get(kernel.get("args", {}).get("External id"), "")
        kind = kind_of(started_by)
        yield (kind if kind != OTHER else kind_of(kernel["name"])), float(kernel["dur"])


def _of_operators(operators: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """The time of each operator in itself; an operator without a kind has the kind of the one that calls it."""
    open_ones: dict[Any, list[list[Any]]] = defaultdict(list)  # by thread: end, kind, time in itself
    closed = []
    for event in sorted(operators, key=lambda event: (event["ts"], -event["dur"])):
        stack = open_ones[event.get("tid")]
        while stack and stack[-1][0] <= event["ts"]:
            closed.append(stack.pop())
        kind = kind_of(event["name"])
        if stack:
            stack[-1][2] -= event["dur"]
            kind = stack[-1][1] if kind == OTHER else kind
        stack.append([event["ts"] + event["dur"], kind, event["dur"]])
    for entry in [*closed, *(entry for stack in open_ones.values() for entry in stack)]:
        yield entry[1], max(0.0, float(entry[2]))
