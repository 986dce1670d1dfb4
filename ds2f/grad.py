"""Gradients as functions of parameter trees, by two engines that give the same bits.

``func`` is ``torch.func.vjp`` with a backward pass under ``torch.no_grad()``, for CPUs. ``torch.func.grad`` always
records the backward pass: fused recurrent kernels then decompose into small differentiable operations, four times
slower.

``autograd`` is ``torch.autograd.grad`` on detached leaves, for CUDA and NPUs. cuDNN's recurrent operators read the
memory of their weights, which ``torch.func``'s wrappers lack ("Cannot access storage of TensorWrapper"). Ascend
overrides composite operators without a derivative; ``torch.func`` silently returns zeros for them.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from ds2f import tree
from ds2f.types import Stage

StageFn = Callable[[Any, Any], tuple[Any, Any]]
Pullback = Callable[[Any], tuple[Any, Any]]
Vjp = Callable[[StageFn, Any, Any], tuple[Any, Any, Pullback]]  # (fn, params, x) -> (y, aux, pullback)


def engine_for(device: torch.device) -> str:
    """The engine for the fused recurrent operators of a device: ``"func"`` on CPUs, ``"autograd"`` elsewhere."""
    return "func" if device.type == "cpu" else "autograd"


def value_and_grad(fn: Callable[..., Any], *, has_aux: bool = False, engine: str = "func") -> Callable[..., Any]:
    """Makes a function that returns ``fn``'s value and its gradient with respect to the first argument.

    The result has JAX's order: ``(value, grads)``, or ``((value, aux), grads)`` with ``has_aux``.

    Args:
      fn: ``fn(params, *args, **kwargs)`` returning a scalar tensor, or ``(scalar, aux)`` with ``has_aux``; ``params``
        is a pytree of floating-point tensors.
      has_aux: whether ``fn`` returns auxiliary outputs, a pytree of tensors; they are returned detached.
      engine: ``"func"`` or ``"autograd"``; ``engine_for`` chooses by device.

    Returns:
      A function with ``fn``'s arguments. Gradients have the structure, shapes and dtypes of ``params``. They are
      detached, own their memory, and are zero where the value does not depend on a leaf.

    Raises:
      ValueError: for an unknown engine.
      RuntimeError: from the returned function under another transform or with inputs that require gradients, since its
        backward pass has no graph. For second derivatives and vmap use ``torch.func.grad`` with the scan kernel and
        ``ctc.scan``.

    >>> def loss(params, x):
    ...     return (params["w"] * x).sum()
    >>> value_and_grad(loss)({"w": torch.tensor([1.0, 2.0])}, torch.tensor([3.0, 4.0]))
    (tensor(11.), {'w': tensor([3., 4.])})
    """
    vjp = _engine(engine)

    def wrapped(params: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_nesting((params, args, kwargs))

        def of_params(p: Any, _: Any) -> tuple[Tensor, Any]:
            result = fn(p, *args, **kwargs)
            return result if has_aux else (result, None)

        value, aux, pullback = vjp(of_params, params, ())
        grads, _ = pullback(torch.ones_like(value))
        return ((value, aux), grads) if has_aux else (value, grads)

    return wrapped


def staged_value_and_grad(
    stages: list[Stage],
    *,
    on_grads: Callable[[str, Any], Any] | None = None,
    engine: str = "func",
    remat: bool = False,
) -> Callable[[Any, Any], tuple[tuple[Tensor, dict[str, Any]], Any]]:
    """Differentiates a chain of stages one by one and passes on each stage's gradients as soon as they exist.

    Args:
      stages: the chain. A stage maps its subtree of the parameters and ``x`` to ``(y, aux)``; ``x`` and ``y`` are
        tensors or tuples of tensors, and the last ``y`` is the scalar value. A stage without parameters needs no entry
        in ``params``. Stages have distinct names and share no parameters.
      on_grads: called as ``on_grads(name, grads)`` from the last stage to the first, before the backward pass of the
        previous stage in the chain starts. A tree that it returns replaces the stage's gradients.
      engine: ``"func"`` or ``"autograd"``; ``engine_for`` chooses by device.
      remat: rematerialisation: keep the stages' inputs only, and repeat each stage's forward pass right before its
        backward pass (Chen et al. 2016, "Training deep nets with sublinear memory cost"). The same bits as without, if
        the stages are pure. An all-reduce within a stage then runs twice, in the same order on all ranks.

    Returns:
      A function ``(params, x) -> ((value, aux by stage), grads)``. The gradients have the structure of ``params``, as
      far as the stages cover it. ``x``, the first stage's input, is not differentiated. The result has the
      bits and the restrictions of ``value_and_grad`` on the composed function.

    Raises:
      ValueError: when two stages have one name; from the returned function, when two share parameters.

    >>> double = Stage("double", lambda params, x: (params["w"] * x, {}))
    >>> total = Stage("total", lambda params, x: (x.sum(), {}))
    >>> differentiate = staged_value_and_grad([double, total], on_grads=lambda name, grads: print(name, grads))
    >>> (value, _), grads = differentiate({"double": {"w": torch.tensor(2.0)}}, torch.tensor([3.0, 4.0]))
    double {'w': tensor(7.)}
    """
    vjp = _engine(engine)
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise ValueError(f"two stages have one name: {', '.join(names)}")

    def wrapped(params: Any, x: Any) -> tuple[tuple[Tensor, dict[str, Any]], Any]:
        _refuse_nesting((params, x))
        _refuse_sharing([name for name in names if tree.subtree(params, name) is not None])
        auxiliary: dict[str, Any] = {}
        pullbacks: list[tuple[str, Pullback]] = []
        y: Any = ()  # passes from stage to stage; the first stage's input is not differentiated
        for index, stage in enumerate(stages):
            fn = stage.fn if index else _with_input(stage.fn, x)
            run = _keeping_inputs(vjp) if remat and stage is not stages[-1] else vjp
            y, auxiliary[stage.name], pullback = run(fn, tree.subtree(params, stage.name, default={}), y)
            pullbacks.append((stage.name, pullback))
        value, cotangent = y, torch.ones_like(y)
        grads: Any = {}
        while pullbacks:
            name, pullback = pullbacks.pop()
            stage_grads, cotangent = pullback(cotangent)
            del pullback  # frees the tensors that the stage's backward pass has read
            if tree.subtree(params, name) is not None:
                replaced = on_grads(name, stage_grads) if on_grads is not None else None
                grads = tree.grafted(grads, name, stage_grads if replaced is None else replaced)
            del stage_grads  # frees memory before the next backward pass
        return (value, auxiliary), grads

    return wrapped


def _refuse_sharing(names: Sequence[str]) -> None:
    """Raises if two stages share parameters: the gradients of one would replace the gradients of the other."""
    for name, other in itertools.permutations(names, 2):
        if not name or other.startswith(f"{name}/"):
            raise ValueError(
                f"the stages {name!r} and {other!r} share parameters; make one stage of both, or give each its own"
            )


def _with_input(fn: StageFn, x: Any) -> StageFn:
    return lambda params, _: fn(params, x)


def _keeping_inputs(vjp: Vjp) -> Vjp:
    """An engine with rematerialisation: its pullback runs ``fn`` again and keeps no intermediate tensors.

    The first run is recorded too and the record dropped: without recording, operators may choose another algorithm,
    with other bits.
    """

    def keeping(fn: StageFn, params: Any, x: Any) -> tuple[Any, Any, Pullback]:
        y, aux, _ = vjp(fn, params, x)
        return y, aux, lambda cotangent: vjp(fn, params, x)[2](cotangent)

    return keeping


def _engine(name: str) -> Vjp:
    engines = {"func": _vjp_func, "autograd": _vjp_autograd}
    if name not in engines:
        raise ValueError(f"engine is one of {', '.join(engines)}, not {name!r}")
    return engines[name]


def _vjp_func(fn: StageFn, params: Any, x: Any) -> tuple[Any, Any, Pullback]:
    unflatten_aux: Callable[[list[Any]], Any]
    pullback: Pullback

    def recorded(p: Any, y: Any) -> tuple[Any, tuple[Tensor, ...]]:
        nonlocal unflatten_aux, pullback
        value, aux = fn(p, y)
        leaves, unflatten_aux = tree.flatten(aux)  # vjp would turn NamedTuples into tuples
        pullback = partial(_pull, tree.leaves(value), *tree.flatten((p, y)))
        return value, tuple(leaves)

    # vjp's own cotangent function is _pull, but imports torch's compiler first, which takes seconds.
    value, _, aux_leaves = torch.func.vjp(recorded, params, x, has_aux=True)  # type: ignore[misc]
    return value, unflatten_aux(list(aux_leaves)), pullback


def _vjp_autograd(fn: StageFn, params: Any, x: Any) -> tuple[Any, Any, Pullback]:
    inputs, unflatten = tree.flatten((params, x))
    inputs = [leaf.detach().requires_grad_() for leaf in inputs]
    with torch.enable_grad():
        value, aux = fn(*unflatten(inputs))
    pullback = partial(_pull, tree.leaves(value), inputs, unflatten)
    return tree.map(torch.Tensor.detach, value), tree.map(torch.Tensor.detach, aux), pullback


@torch.no_grad()  # a recorded backward pass would decompose the fused kernels
def _pull(outputs: list[Tensor], inputs: list[Tensor], unflatten: Callable[[list[Any]], Any], cotangent: Any) -> Any:
    """Pulls the cotangents of recorded outputs back to the inputs; zeros for inputs that no output depends on."""
    pairs = [pair for pair in zip(outputs, tree.leaves(cotangent), strict=True) if pair[0].requires_grad]
    if not inputs or not pairs:
        return unflatten([torch.zeros_like(leaf) for leaf in inputs])
    # What torch.autograd.grad calls, once it has imported sympy to compare shapes, which takes 0.7 s. Here a cotangent
    # always has the shape of its output.
    recorded, cotangents = zip(*pairs, strict=True)
    keep_graph = create_graph = False
    found = _engine_run_backward(
        recorded, cotangents, keep_graph, create_graph, tuple(inputs), allow_unreachable=True, accumulate_grad=False
    )
    grads = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(inputs, found, strict=True)]
    return unflatten(_apart(grads))


def _apart(grads: Sequence[Tensor]) -> list[Tensor]:
    """Gives every gradient memory of its own: for the terms of a sum, autograd returns one tensor several times."""
    taken, apart = set(), []
    for leaf in grads:
        memory = leaf.untyped_storage()
        expanded = memory.nbytes() < leaf.numel() * leaf.element_size()
        apart.append(leaf.clone(memory_format=torch.contiguous_format) if expanded or memory._cdata in taken else leaf)
        taken.add(memory._cdata)
    return apart


def _refuse_nesting(arguments: Any) -> None:
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    recorded = torch.is_grad_enabled() and any(
        isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree.leaves(arguments)
    )
    if transformed or recorded:
        raise RuntimeError(
            "value_and_grad runs its backward pass without a graph, so differentiating or vmapping through it would "
            "silently give zeros. For second derivatives and vmap use torch.func.grad with the scan kernel "
            "(ModelConfig(kernel='scan')) and ctc.scan; otherwise pass detached tensors."
        )
