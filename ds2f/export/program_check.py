"""The graph of a program of ``torch.export`` from outside, checked before torch sees it.

torch executes what a graph says: it looks up operators by their names, evaluates expressions of sizes and guards as
Python code, imports modules that structures name, and makes Python code of all names. So only what the programs of
``torch_program`` need is taken over: operators of a fixed list, plain names, numbers, and expressions that are sums,
products and quotients of sizes. All else is left out, or refused.
"""

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from ds2f.files import json_text

OPERATORS = frozenset(
    {
        *(f"_operator.{name}" for name in ("add", "floordiv", "mod", "mul", "neg", "sub")),
        *(
            f"torch.ops.aten.{name}"
            for name in (
                *("_assert_tensor_metadata.default", "add.Tensor", "addcmul.default", "alias.default"),
                *("arange.default", "arange.start", "contiguous.default", "conv1d.default", "conv2d.default"),
                *("flatten.using_ints", "floor_divide.default", "ge.Tensor", "gru.input", "hardtanh.default"),
                *("index_select.default", "linear.default", "log_softmax.int", "lstm.input", "mul.Tensor"),
                *("new_zeros.default", "numpy_T.default", "pad.default", "permute.default", "promote_types.default"),
                *("rnn_tanh.input", "rsqrt.default", "select.int", "slice.Tensor", "sub.Tensor", "sym_size.int"),
                *("to.dtype", "transpose.int", "unsqueeze.default", "view.default", "view_as.default"),
                *("where.ScalarSelf", "where.self"),
            )
        ),
    }
)
INPUTS = ("features", "lengths")
_NODES = 50_000
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_EXPRESSION = re.compile(
    r"(?:Symbol\('s\d{1,6}', positive=True, integer=True\)|Integer\(-?\d{1,12}\)"
    r"|(?:Add|Mul|FloorDiv|Mod|Max|Min)\(|, |\))+"
)
_LONGEST = 2000  # characters of an expression
_SYMBOL = re.compile(r"(?:\d{1,2}\*)?s\d{1,6}")
_LARGEST = 1 << 63  # of an integer


class Refused(ValueError):  # noqa: N818  # it says what happened
    """A graph has something that is none of a model's; the message says what."""


def checked(program: Any, weights: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A program with what a model needs, and nothing else.

    Args:
      program: JSON of ``torch.export``'s schema, from outside.
      weights: the names and shapes of the model's tensors.

    Returns:
      The program, without guards, traces and metadata.

    Raises:
      Refused: it is no program of a model.
    """
    try:
        module = program["graph_module"]
        return {
            "graph_module": {
                "graph": _graph(module["graph"]),
                "signature": _signature(module["signature"], weights),
                "module_call_graph": [_CALL],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": _integer(program["opset_version"]["aten"])},
            "range_constraints": _each_symbol(program["range_constraints"]),
            "schema_version": {name: _integer(program["schema_version"][name]) for name in ("major", "minor")},
            "verifiers": ["TRAINING"],
            "torch_version": "",
            "guards_code": [],
        }
    except Refused:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise Refused(f"a program of another form ({type(error).__name__}: {error})") from error


def _structure(kind: str | None, context: str | None, children: list[Any]) -> dict[str, Any]:
    return {"type": kind, "context": context, "children_spec": children}


_PAIR = _structure("builtins.tuple", "null", [_structure(None, None, [])] * 2)
_ARGUMENTS_AND_NONE_BY_NAME = [_PAIR, _structure("builtins.dict", "[]", [])]
_CALL = {  # two tensors go in, two come out; the file's own structures would import what they name
    "fqn": "",
    "signature": {
        "inputs": [],
        "outputs": [],
        "in_spec": json_text([1, _structure("builtins.tuple", "null", _ARGUMENTS_AND_NONE_BY_NAME)]),
        "out_spec": json_text([1, _PAIR]),
        "forward_arg_names": list(INPUTS),
    },
}


def _graph(graph: Any) -> dict[str, Any]:
    if graph["is_single_tensor_return"] or any(
        graph[kind] for kind in ("sym_bool_values", "sym_float_values", "custom_obj_values")
    ):
        raise Refused("values of other kinds than tensors and sizes")
    if len(graph["nodes"]) > _NODES:
        raise Refused(f"{len(graph['nodes']):,} operations; the limit is {_NODES:,}")
    return {
        "inputs": [_argument(each, _TENSOR) for each in graph["inputs"]],
        "outputs": [_argument(each, _TENSOR) for each in graph["outputs"]],
        "nodes": [_node(each) for each in graph["nodes"]],
        "tensor_values": {_name(name): _tensor(each) for name, each in graph["tensor_values"].items()},
        "sym_int_values": {_name(name): _size(each) for name, each in graph["sym_int_values"].items()},
        "sym_bool_values": {},
        "sym_float_values": {},
        "custom_obj_values": {},
        "is_single_tensor_return": False,
    }


def _node(node: Any) -> dict[str, Any]:
    if not (isinstance(node["target"], str) and node["target"] in OPERATORS):
        raise Refused(f"the operator {str(node['target'])[:100]!r}, which no model needs")
    return {
        "target": node["target"],
        "inputs": [
            {"name": _name(each["name"]), "arg": _argument(each["arg"], _ARGUMENTS), "kind": _integer(each["kind"])}
            for each in node["inputs"]
        ],
        "outputs": [_argument(each, _OUTPUTS) for each in node["outputs"]],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": _name(node["name"]),
    }


def _signature(signature: Any, weights: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Inputs are the model's weights, then features and lengths; outputs are two tensors."""
    given = signature["input_specs"]
    buffers = [each["buffer"] for each in given[: -len(INPUTS)]]
    if [each["buffer_name"] for each in buffers] != list(weights):
        raise Refused("inputs that are not the model's weights")
    specs: list[dict[str, Any]] = [
        {"buffer": {"arg": _named(each["arg"]), "buffer_name": each["buffer_name"], "persistent": True}}
        for each in buffers
    ]
    specs += [{"user_input": {"arg": _argument(each["user_input"]["arg"], _TENSOR)}} for each in given[-len(INPUTS) :]]
    if [spec["user_input"]["arg"]["as_tensor"]["name"] for spec in specs[-len(INPUTS) :]] != list(INPUTS):
        raise Refused("inputs that are not features and lengths")
    outputs = [
        {"user_output": {"arg": _argument(each["user_output"]["arg"], _TENSOR)}} for each in signature["output_specs"]
    ]
    if len(outputs) != 2:
        raise Refused("other outputs than log-probabilities and lengths")
    return {"input_specs": specs, "output_specs": outputs}


def _each_symbol(ranges: Any) -> dict[str, dict[str, int | None]]:
    found = {}
    for name, limits in ranges.items():
        if not _SYMBOL.fullmatch(name):
            raise Refused(f"the size {name[:100]!r}")
        found[name] = {key: None if limits[key] is None else _integer(limits[key]) for key in ("min_val", "max_val")}
    return found


def _argument(argument: Any, kinds: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """A value of one of some kinds; ``{"as_int": 3}``."""
    ((kind, value),) = argument.items()
    if kind not in kinds:
        raise Refused(f"a value of the kind {str(kind)[:100]!r}")
    return {kind: kinds[kind](value)}


def _name(name: Any) -> str:
    if not (isinstance(name, str) and _IDENTIFIER.fullmatch(name)) or keyword.iskeyword(name):
        raise Refused(f"the name {str(name)[:100]!r}")
    return name


def _integer(value: Any) -> int:
    if type(value) is not int or not -_LARGEST <= value < _LARGEST:
        raise Refused(f"{str(value)[:100]!r}, which is no integer")
    return value


def _number(value: Any) -> float:
    if type(value) is not float:
        raise Refused(f"{str(value)[:100]!r}, which is no number")
    return value


def _truth(value: Any) -> bool:
    if type(value) is not bool:
        raise Refused(f"{str(value)[:100]!r}, which is neither true nor false")
    return value


def _device(value: Any) -> dict[str, Any]:
    if value != {"type": "cpu", "index": None}:
        raise Refused("a device other than the CPU")
    return {"type": "cpu", "index": None}


def _named(value: Any) -> dict[str, str]:
    return {"name": _name(value["name"])}


def _size(value: Any) -> dict[str, Any]:
    """A size: a number, or an expression that is evaluated as Python code, and therefore spelt as expected."""
    return _argument(value, {"as_int": _integer, "as_expr": _expression})


def _expression(value: Any) -> dict[str, Any]:
    text, hint = value["expr_str"], value["hint"]
    if not (isinstance(text, str) and len(text) <= _LONGEST and _EXPRESSION.fullmatch(text)):
        raise Refused(f"the expression {str(text)[:100]!r}")
    return {"expr_str": text, "hint": None if hint is None else _argument(hint, {"as_int": _integer})}


def _size_argument(value: Any) -> dict[str, Any]:
    return _argument(value, {"as_int": _integer, "as_name": _name})


def _tensor(value: Any) -> dict[str, Any]:
    return {
        "dtype": _integer(value["dtype"]),
        "sizes": [_size(each) for each in value["sizes"]],
        "requires_grad": False,
        "device": _device(value["device"]),
        "strides": [_size(each) for each in value["strides"]],
        "storage_offset": _size(value["storage_offset"]),
        "layout": _integer(value["layout"]),
    }


_TENSOR: dict[str, Callable[[Any], Any]] = {"as_tensor": _named}
_OUTPUTS = _TENSOR | {
    "as_tensors": lambda value: [_named(each) for each in value],
    "as_sym_int": _size_argument,
    "as_none": _truth,
}
_ARGUMENTS = _OUTPUTS | {
    "as_int": _integer,
    "as_ints": lambda value: [_integer(each) for each in value],
    "as_sym_ints": lambda value: [_size_argument(each) for each in value],
    "as_float": _number,
    "as_bool": _truth,
    "as_scalar_type": _integer,
    "as_memory_format": _integer,
    "as_layout": _integer,
    "as_device": _device,
}
