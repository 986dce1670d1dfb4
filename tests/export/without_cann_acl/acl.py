"""A stand-in for CANN's pyACL: memory of its own, and models computed by onnxruntime: .om files are graphs of ONNX.

Functions have the signatures and results of pyACL's reference. ``ACL_FAILS=NAME`` in the environment: that function
returns an error. At the end, ``finalize`` says on standard error what was not released.
"""

import ctypes
import os
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime

_TYPES = {"tensor(float)": (0, np.float32), "tensor(float16)": (1, np.float16), "tensor(int32)": (3, np.int32)}
_ERROR = 507011
_memory, _buffers, _datasets, _descriptions, _models = {}, {}, {}, {}, {}
_reserved = []


def _code(name):
    return _ERROR if os.environ.get("ACL_FAILS") == name else 0


def _new(table, value):
    number = 1000 + len(table) + sum(map(len, (_buffers, _datasets, _descriptions, _models)))
    table[number] = value
    return number


def init(config_path=None):
    _reserved.append("process")
    return _code("init")


def finalize():
    held = {"memory": _memory, "buffers": _buffers, "datasets": _datasets, "descriptions": _descriptions}
    left = [name for name, table in {**held, "models": _models}.items() if table]
    if left or _reserved != ["process"]:
        print(f"acl: not released: {', '.join([*left, *_reserved[1:]])}", file=sys.stderr)
    return 0


def create_data_buffer(address, size):
    return _new(_buffers, (address, size))


def destroy_data_buffer(buffer):
    del _buffers[buffer]
    return 0


def _set_device(device):
    _reserved.append(f"device {device}")
    return 107001 if device else _code("set_device")


def _reset_device(device):
    _reserved.remove(f"device {device}")
    return 0


def _malloc(size, policy=0):
    block = ctypes.create_string_buffer(size)
    _memory[ctypes.addressof(block)] = block
    return ctypes.addressof(block), _code("malloc")


def _free(address):
    del _memory[address]
    return 0


def _memcpy(target, room, source, size, kind):
    on_device = {1: target, 2: source}[kind]
    if on_device not in _memory or size > room:
        return 107000
    ctypes.memmove(target, source, size)
    return _code("memcpy")


def _bytes_to_ptr(content):
    return ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value


def _load_from_file(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    zeros = {each.name: np.ones(each.shape, _TYPES[each.type][1]) for each in session.get_inputs()}
    return _new(_models, (session, session.run(None, zeros))), _code("load_from_file")


def _unload(model):
    del _models[model]
    return 0


def _create_desc():
    return _new(_descriptions, None)


def _get_desc(description, model):
    _descriptions[description] = _models[model]
    return 0


def _destroy_desc(description):
    del _descriptions[description]
    return 0


def _inputs(description):
    return _descriptions[description][0].get_inputs()


def _input_size(description, place):
    declared = _inputs(description)[place]
    return int(np.prod(declared.shape)) * np.dtype(_TYPES[declared.type][1]).itemsize


def _output(description, place):
    return _descriptions[description][1][place]


def _output_dims(description, place):
    shape = _output(description, place).shape
    return {"name": f"node:0:output_{place}", "dimCount": len(shape), "dims": list(shape)}, 0


def _output_type(description, place):
    return next(number for number, dtype in _TYPES.values() if dtype == _output(description, place).dtype)


def _create_dataset():
    return _new(_datasets, [])


def _add_dataset_buffer(dataset, buffer):
    _datasets[dataset].append(buffer)
    return dataset, 0


def _destroy_dataset(dataset):
    del _datasets[dataset]
    return 0


def _execute(model, given, found):
    session = _models[model][0]
    feeds = {}
    for declared, buffer in zip(session.get_inputs(), _datasets[given], strict=True):
        content = ctypes.string_at(*_buffers[buffer])
        feeds[declared.name] = np.frombuffer(content, _TYPES[declared.type][1]).reshape(declared.shape)
    for output, buffer in zip(session.run(None, feeds), _datasets[found], strict=True):
        address, size = _buffers[buffer]
        ctypes.memmove(address, np.ascontiguousarray(output).tobytes(), size)
    return _code("execute")


rt = SimpleNamespace(
    set_device=_set_device,
    reset_device=_reset_device,
    malloc=_malloc,
    free=_free,
    malloc_host=lambda size: _malloc(size),
    free_host=_free,
    memcpy=_memcpy,
)
util = SimpleNamespace(bytes_to_ptr=_bytes_to_ptr, ptr_to_bytes=ctypes.string_at)
mdl = SimpleNamespace(
    load_from_file=_load_from_file,
    unload=_unload,
    create_desc=_create_desc,
    get_desc=_get_desc,
    destroy_desc=_destroy_desc,
    get_num_inputs=lambda description: len(_inputs(description)),
    get_input_name_by_index=lambda description, place: _inputs(description)[place].name,
    get_input_size_by_index=_input_size,
    get_num_outputs=lambda description: len(_descriptions[description][1]),
    get_output_size_by_index=lambda description, place: _output(description, place).nbytes,
    get_output_dims=_output_dims,
    get_output_data_type=_output_type,
    create_dataset=_create_dataset,
    add_dataset_buffer=_add_dataset_buffer,
    destroy_dataset=_destroy_dataset,
    execute=_execute,
)
