"""Gradients as functions of parameter trees, by two engines that give the same bits.

``func`` is ``torch.func.vjp`` with its cotangent function called under ``torch.no_grad()``. ``torch.func.grad`` is not
used: it always records the backward pass, and fused recurrent kernels then fall apart into small differentiable
operations, four times slower. ``autograd`` is ``torch.autograd.grad`` on detached leaves, for devices whose composite
operators are overridden without a derivative of their own (there ``torch.func`` silently gives zeros).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ds2f import tree
from ds2f.types import Stage

Pullback = Callable[[Tensor], tuple[Any, Any]]


def value_and_grad(fn: Callable[..., Any], *, has_aux: bool = False, engine: str = "func") -> Callable[..., Any]:
    """Makes a function that returns ``fn``'s value and its gradient with respect to the first argument.

    The order of the result is JAX's: ``(value, grads)``, or ``((value, aux), grads)`` with ``has_aux``.

    Args:
      fn: ``fn(params, *args, **kwargs)`` returning a scalar tensor, or ``(scalar, aux)`` with ``has_aux``; ``params``
        is a pytree of floating-point tensors.
      has_aux: whether ``fn`` returns auxiliary outputs, a pytree of tensors, which are passed on detached.
      engine: ``"func"`` or ``"autograd"``.

    Returns:
      A function with ``fn``'s arguments. Gradients have the structure, shapes and dtypes of ``params``, are detached,
      and are zero where the value does not depend on a leaf. It is a leaf: it runs the backward pass without a graph,
      so it cannot be differentiated or vmapped, and raises ``RuntimeError`` when somebody tries. For that, take
      ``torch.func.grad`` with the scan kernel and ``ctc.scan``.
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
    stages: list[Stage], *, on_grads: Callable[[str, Any], None] | None = None, engine: str = "func"
) -> Callable[[Any, Tensor], tuple[tuple[Tensor, dict[str, Any]], dict[str, Any]]]:
    """Differentiates a chain of stages one by one, handing out each stage's gradients as soon as they exist.

    Args:
      stages: the chain; stage ``s`` maps ``(params[s.name], x)`` to ``(y, aux)``, the last ``y`` is the scalar value. A
        stage without parameters needs no entry in ``params``.
      on_grads: called as ``on_grads(name, grads)`` from the last stage to the first, before the backward pass of the
        stage below starts.
      engine: ``"func"`` or ``"autograd"``.

    Returns:
      A function ``(params, x) -> ((value, aux by stage), grads by stage)``. ``x``, the first stage's input, is not
      differentiated. One stage is ``value_and_grad``; more give the same bits. The same restrictions hold.
    """
    vjp = _engine(engine)

    def wrapped(params: Any, x: Tensor) -> tuple[tuple[Tensor, dict[str, Any]], dict[str, Any]]:
        _refuse_nesting((params, x))
        auxiliary: dict[str, Any] = {}
        pullbacks: list[tuple[str, Pullback]] = []
        y: Any = ()  # what flows between the stages; the first one's input is not differentiated
        for index, stage in enumerate(stages):
            fn = stage.fn if index else _with_input(stage.fn, x)
            y, auxiliary[stage.name], pullback = vjp(fn, params.get(stage.name, {}), y)
            pullbacks.append((stage.name, pullback))
        value, cotangent, grads = y, torch.ones_like(y), {}
        while pullbacks:
            name, pullback = pullbacks.pop()
            stage_grads, cotangent = pullback(cotangent)
            if name in params:
                grads[name] = stage_grads
                if on_grads is not None:
                    on_grads(name, stage_grads)
        return (value, auxiliary), grads

    return wrapped


def _with_input(fn: Callable[[Any, Tensor], tuple[Tensor, Any]], x: Tensor) -> Callable[[Any, Any], tuple[Tensor, Any]]:
    return lambda params, _: fn(params, x)


def _engine(name: str) -> Callable[[Callable[[Any, Any], tuple[Tensor, Any]], Any, Any], tuple[Tensor, Any, Pullback]]:
    engines = {"func": _vjp_func, "autograd": _vjp_autograd}
    if name not in engines:
        raise ValueError(f"engine is one of {', '.join(engines)}, not {name!r}")
    return engines[name]


def _vjp_func(fn: Callable[[Any, Any], tuple[Tensor, Any]], params: Any, x: Any) -> tuple[Tensor, Any, Pullback]:
    unflatten: Callable[[list[Any]], Any]

    def with_flat_aux(p: Any, y: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        nonlocal unflatten
        value, aux = fn(p, y)
        leaves, unflatten = tree.flatten(aux)  # vjp would turn NamedTuples into tuples
        return value, tuple(leaves)

    value, cotangent_fn, aux_leaves = torch.func.vjp(with_flat_aux, params, x, has_aux=True)  # type: ignore[misc]

    def pullback(cotangent: Tensor) -> tuple[Any, Any]:
        with torch.no_grad():  # otherwise the backward pass is recorded, and the fused kernels' becomes composite
            return cotangent_fn(cotangent, retain_graph=False)

    return value, unflatten(list(aux_leaves)), pullback


def _vjp_autograd(fn: Callable[[Any, Any], tuple[Tensor, Any]], params: Any, x: Any) -> tuple[Tensor, Any, Pullback]:
    inputs, unflatten = tree.flatten((params, x))
    inputs = [leaf.detach().requires_grad_() for leaf in inputs]
    with torch.enable_grad():
        value, aux = fn(*unflatten(inputs))

    def pullback(cotangent: Tensor) -> tuple[Any, Any]:
        if not inputs or not value.requires_grad:
            grads: tuple[Tensor, ...] = tuple(torch.zeros_like(leaf) for leaf in inputs)
        else:
            grads = torch.autograd.grad(value, inputs, cotangent, allow_unused=True, materialize_grads=True)
        return unflatten(list(grads))

    return value.detach(), tree.map(torch.Tensor.detach, aux), pullback


def _refuse_nesting(arguments: Any) -> None:
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    recorded = torch.is_grad_enabled() and any(
        isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree.leaves(arguments)
    )
    if transformed or recorded:
        raise RuntimeError(
            "value_and_grad runs its backward pass without a graph, so differentiating or vmapping through it would "
            "silently give zeros. For second derivatives and vmap use torch.func.grad with the scan kernel "
            "(kernel='scan') and ctc.scan; otherwise pass detached tensors."
        )
