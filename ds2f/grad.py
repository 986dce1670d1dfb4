"""Gradients as functions of parameter trees, by two engines that give the same bits.

``func`` is ``torch.func.vjp`` whose backward pass runs under ``torch.no_grad()``. ``torch.func.grad`` is not used: it
always records the backward pass, and fused recurrent kernels then fall apart into small differentiable operations,
four times slower. ``autograd`` is ``torch.autograd.grad`` on detached leaves, for cards: cuDNN's recurrent operators
ask for the memory of their weights, which the wrappers of ``torch.func`` do not have ("Cannot access storage of
TensorWrapper"), and Ascend overrides composite operators without a derivative of their own, for which ``torch.func``
silently gives zeros.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ds2f import tree
from ds2f.types import Stage

StageFn = Callable[[Any, Any], tuple[Any, Any]]
Pullback = Callable[[Any], tuple[Any, Any]]
Vjp = Callable[[StageFn, Any, Any], tuple[Any, Any, Pullback]]  # (fn, params, x) -> (y, aux, pullback)


def engine_for(device: torch.device) -> str:
    """The engine that the fused recurrent operators of a device work with: ``"func"`` on CPUs, else ``"autograd"``."""
    return "func" if device.type == "cpu" else "autograd"


def value_and_grad(fn: Callable[..., Any], *, has_aux: bool = False, engine: str = "func") -> Callable[..., Any]:
    """Makes a function that returns ``fn``'s value and its gradient with respect to the first argument.

    The order of the result is JAX's: ``(value, grads)``, or ``((value, aux), grads)`` with ``has_aux``.

    Args:
      fn: ``fn(params, *args, **kwargs)`` returning a scalar tensor, or ``(scalar, aux)`` with ``has_aux``; ``params``
        is a pytree of floating-point tensors.
      has_aux: whether ``fn`` returns auxiliary outputs, a pytree of tensors, which are passed on detached.
      engine: ``"func"`` or ``"autograd"``; ``engine_for`` says which suits a device.

    Returns:
      A function with ``fn``'s arguments. Gradients have the structure, shapes and dtypes of ``params``, are detached,
      may be written to, and are zero where the value does not depend on a leaf. It is a leaf: it runs the backward pass
      without a graph, so it cannot be differentiated or vmapped, and raises ``RuntimeError`` when somebody tries. For
      that, take ``torch.func.grad`` with the scan kernel and ``ctc.scan``.
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
    """Differentiates a chain of stages one by one, handing out each stage's gradients as soon as they exist.

    Args:
      stages: the chain; stage ``s`` maps its subtree of the parameters and ``x`` to ``(y, aux)``, where ``x`` and ``y``
        are tensors or tuples of them, and the last ``y`` is the scalar value. A stage without parameters needs no entry
        in ``params``. No two names are the same, and no two stages share parameters.
      on_grads: called as ``on_grads(name, grads)`` from the last stage to the first, before the backward pass of the
        stage below starts. A tree that it returns takes the place of the stage's gradients.
      engine: ``"func"`` or ``"autograd"``; ``engine_for`` says which suits a device.
      remat: keep the stages' inputs alone, and run each stage's forward pass again right before its backward pass
        (Chen et al. 2016, "Training deep nets with sublinear memory cost"). The same bits as without, if the stages are
        functions: the same arguments, the same results. Stages that sum over ranks do so twice, in the same order on
        all of them.

    Returns:
      A function ``(params, x) -> ((value, aux by stage), grads)``; the gradients have the structure of ``params``, as
      far as the stages cover it. ``x``, the first stage's input, is not differentiated. One stage is
      ``value_and_grad``; more give the same bits. The same restrictions hold.

    Raises:
      ValueError: when two stages have one name; the function it returns, when two share parameters.
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
        y: Any = ()  # what flows between the stages; the first one's input is not differentiated
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
            del pullback  # and with it what the stage's backward pass read
            if tree.subtree(params, name) is not None:
                replaced = on_grads(name, stage_grads) if on_grads is not None else None
                grads = tree.grafted(grads, name, stage_grads if replaced is None else replaced)
            del stage_grads  # which the next stage's backward pass would otherwise find still there
        return (value, auxiliary), grads

    return wrapped


def _refuse_sharing(names: Sequence[str]) -> None:
    """Raises where the parameters of one stage lie among another's: the gradient of one would replace the other's."""
    for name, other in itertools.permutations(names, 2):
        if not name or other.startswith(f"{name}/"):
            raise ValueError(
                f"the stages {name!r} and {other!r} share parameters; make one stage of both, or give each its own"
            )


def _with_input(fn: StageFn, x: Any) -> StageFn:
    return lambda params, _: fn(params, x)


def _keeping_inputs(vjp: Vjp) -> Vjp:
    """The same engine, but that its pullback runs ``fn`` again rather than keep what the backward pass reads.

    The first run is recorded too, and the record dropped: without one, operators may choose another way to compute.
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

    # vjp's own cotangent function does what _pull does, but imports torch's compiler first: seconds of every start.
    value, _, aux_leaves = torch.func.vjp(recorded, params, x, has_aux=True)  # type: ignore[misc]
    return value, unflatten_aux(list(aux_leaves)), pullback


def _vjp_autograd(fn: StageFn, params: Any, x: Any) -> tuple[Any, Any, Pullback]:
    inputs, unflatten = tree.flatten((params, x))
    inputs = [leaf.detach().requires_grad_() for leaf in inputs]
    with torch.enable_grad():
        value, aux = fn(*unflatten(inputs))
    pullback = partial(_pull, tree.leaves(value), inputs, unflatten)
    return tree.map(torch.Tensor.detach, value), tree.map(torch.Tensor.detach, aux), pullback


@torch.no_grad()  # otherwise the backward pass is recorded, and the fused kernels' becomes composite
def _pull(outputs: list[Tensor], inputs: list[Tensor], unflatten: Callable[[list[Any]], Any], cotangent: Any) -> Any:
    """Pulls the cotangents of recorded outputs back to the inputs, zeros where nothing depends on one."""
    pairs = [pair for pair in zip(outputs, tree.leaves(cotangent), strict=True) if pair[0].requires_grad]
    if not inputs or not pairs:
        return unflatten([torch.zeros_like(leaf) for leaf in inputs])
    outputs, cotangents = map(list, zip(*pairs, strict=True))
    grads = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True)
    return unflatten(_apart(grads))


def _apart(grads: Sequence[Tensor]) -> list[Tensor]:
    """Gives every gradient memory of its own: for the terms of a sum, autograd hands out one tensor several times."""
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
