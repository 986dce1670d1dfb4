"""Sessions that compute a model of a fixed shape on an NPU, through ais_bench or pyACL.

ais_bench (``InferSession``, of Ascend's tools) is the shorter way. pyACL, the module ``acl``, comes with CANN: memory
on the device is allocated once, and copied to and from in each run. No library is imported before it is needed.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ds2f.errors import InputError
from ds2f.extras import import_extra

Library = Literal["auto", "ais_bench", "acl"]
_TYPES = {0: np.float32, 1: np.float16, 3: np.int32, 9: np.int64}  # aclDataType
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2  # aclrtMemcpyKind
_HUGE_FIRST = 0  # aclrtMemMallocPolicy
_REMEDY = "install ais_bench, or source CANN's set_env.sh for acl; npu-smi info shows whether the NPU is there"


class Outputs(NamedTuple):
    """The outputs of a model."""

    log_probs: NDArray[np.float32]  # [B, T', V]
    lengths: NDArray[np.int64]  # [B], frames


class Session(Protocol):
    """Computes a batch of the session's shape."""

    def __call__(self, features: NDArray[np.float32], lengths: NDArray[np.int32], /) -> Outputs:
        """Features [B, F, T] and lengths [B], frames, to log-probabilities and their lengths."""


@contextmanager
def on_npu(
    files: Sequence[Path], *, inputs: tuple[str, str], device: int = 0, library: Library = "auto"
) -> Iterator[list[Session]]:
    """Opens compiled models on an NPU, and closes them at the end.

    Args:
      files: of type ``.om``.
      inputs: names of features and lengths.
      device: number of the NPU.
      library: ``ais_bench`` or ``acl``; ``auto``: the first of them that can be imported.

    Raises:
      InputError: a file is missing, no library can be imported, or the library refused something.
    """
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; compile the graphs: bash {file.parent / 'atc.sh'} SOC_VERSION")
    name, module = _imported(library)
    with ExitStack() as opened:
        if name == "acl":
            opened.enter_context(_acl_device(module, device))
            yield [_AclModel(module, file, inputs, opened) for file in files]
        else:
            yield [_AisBenchModel(module, file, inputs, device) for file in files]


def _imported(library: Library) -> tuple[str, Any]:
    """The library that is there, by name.

    Raises:
      InputError: the one that is wanted, or the last of them, cannot be imported.
    """
    modules = {"ais_bench": "ais_bench.infer.interface", "acl": "acl"}
    wanted = modules if library == "auto" else {library: modules[library]}
    causes = []
    for name, module in wanted.items():
        try:
            return name, import_extra(module, need=f"a model on an NPU needs {name}", remedy="")
        except InputError as error:
            causes.append(str(error).rstrip(": "))
    raise InputError(f"{'; '.join(causes)}. {_REMEDY[0].upper()}{_REMEDY[1:]}")


class _AisBenchModel:
    """A model through ``InferSession``."""

    def __init__(self, interface: Any, file: Path, inputs: tuple[str, str], device: int) -> None:
        self._file = file
        try:
            self._session = interface.InferSession(device, str(file))
        except Exception as error:
            raise _refused(file, f"ais_bench: {error}") from error
        self._order = _order([each.name for each in self._session.get_inputs()], inputs, file)

    def __call__(self, features: NDArray[np.float32], lengths: NDArray[np.int32], /) -> Outputs:
        given = features, lengths
        try:
            found = self._session.infer([np.ascontiguousarray(given[place]) for place in self._order], mode="static")
        except Exception as error:
            raise _refused(self._file, f"ais_bench: {error}") from error
        return _outputs(found, self._file)


@contextmanager
def _acl_device(acl: Any, device: int) -> Iterator[None]:
    """The NPU, reserved for this process."""
    with ExitStack() as opened:
        _check(acl.init(), "acl.init")
        opened.callback(acl.finalize)
        _check(acl.rt.set_device(device), f"acl.rt.set_device({device})")
        opened.callback(acl.rt.reset_device, device)
        yield


class _AclModel:
    """A model through pyACL, with memory for its inputs and outputs on the device."""

    def __init__(self, acl: Any, file: Path, inputs: tuple[str, str], opened: ExitStack) -> None:
        self._acl, self._file, model = acl, file, acl.mdl
        self._model, code = model.load_from_file(str(file))
        _check(code, f"acl.mdl.load_from_file({file})")
        opened.callback(model.unload, self._model)
        self._described = model.create_desc()
        opened.callback(model.destroy_desc, self._described)
        _check(model.get_desc(self._described, self._model), "acl.mdl.get_desc")
        places = range(model.get_num_inputs(self._described))
        self._order = _order([model.get_input_name_by_index(self._described, place) for place in places], inputs, file)
        sizes = [model.get_input_size_by_index(self._described, place) for place in places]
        self._inputs, self._given = self._memory(sizes, opened)
        places = range(model.get_num_outputs(self._described))
        sizes = [model.get_output_size_by_index(self._described, place) for place in places]
        self._outputs, self._found = self._memory(sizes, opened)

    def _memory(self, sizes: Sequence[int], opened: ExitStack) -> tuple[list[tuple[int, int]], int]:
        """Address and size of a buffer for each tensor, and the data set of all."""
        acl, buffers = self._acl, []
        dataset = acl.mdl.create_dataset()
        opened.callback(acl.mdl.destroy_dataset, dataset)
        for size in sizes:
            address, code = acl.rt.malloc(size, _HUGE_FIRST)
            _check(code, f"acl.rt.malloc of {size:,} bytes")
            opened.callback(acl.rt.free, address)
            buffer = acl.create_data_buffer(address, size)
            opened.callback(acl.destroy_data_buffer, buffer)
            _check(acl.mdl.add_dataset_buffer(dataset, buffer)[1], "acl.mdl.add_dataset_buffer")
            buffers.append((address, size))
        return buffers, dataset

    def __call__(self, features: NDArray[np.float32], lengths: NDArray[np.int32], /) -> Outputs:
        acl, given = self._acl, (features, lengths)
        for (address, size), place in zip(self._inputs, self._order, strict=True):
            content = np.ascontiguousarray(given[place]).tobytes()
            if len(content) != size:
                raise _refused(self._file, f"an input has {size:,} bytes, and {len(content):,} are given")
            pointer = acl.util.bytes_to_ptr(content)
            _check(acl.rt.memcpy(address, size, pointer, size, _HOST_TO_DEVICE), "acl.rt.memcpy to the device")
        _check(acl.mdl.execute(self._model, self._given, self._found), "acl.mdl.execute")
        return _outputs([self._output(place) for place in range(len(self._outputs))], self._file)

    def _output(self, place: int) -> NDArray[Any]:
        acl, (address, size) = self._acl, self._outputs[place]
        dims, code = acl.mdl.get_output_dims(self._described, place)
        _check(code, "acl.mdl.get_output_dims")
        kind = acl.mdl.get_output_data_type(self._described, place)
        if kind not in _TYPES:
            raise _refused(self._file, f"output {place} has the type {kind} of aclDataType, which is not expected")
        host, code = acl.rt.malloc_host(size)
        _check(code, f"acl.rt.malloc_host of {size:,} bytes")
        try:
            _check(acl.rt.memcpy(host, size, address, size, _DEVICE_TO_HOST), "acl.rt.memcpy from the device")
            content = acl.util.ptr_to_bytes(host, size)
        finally:
            acl.rt.free_host(host)
        count = int(np.prod(dims["dims"]))
        return np.frombuffer(content, _TYPES[kind], count).reshape(dims["dims"])


def _order(declared: Sequence[str], inputs: tuple[str, str], file: Path) -> list[int]:
    """Which of features (0) and lengths (1) each input of the model is.

    Raises:
      InputError: the model has other inputs.
    """
    if sorted(declared) != sorted(inputs):
        raise _refused(file, f"its inputs are {', '.join(declared)}, and {', '.join(inputs)} are expected")
    return [inputs.index(name) for name in declared]


def _outputs(found: Sequence[NDArray[Any]], file: Path) -> Outputs:
    """The outputs, told apart by their dimensions.

    Raises:
      InputError: the model has other outputs.
    """
    by_rank = {np.ndim(each): each for each in found}
    if len(found) != 2 or by_rank.keys() != {1, 3} or len(by_rank[1]) != len(by_rank[3]):
        raise _refused(file, f"its outputs have the shapes {[np.shape(each) for each in found]}, not [B, T, V] and [B]")
    return Outputs(by_rank[3].astype(np.float32), by_rank[1].astype(np.int64))


def _check(code: int, what: str) -> None:
    if code:
        raise InputError(f"{what} failed with error {code} of CANN; {_REMEDY}; ~/ascend/log has its log")


def _refused(file: Path, reason: str) -> InputError:
    return InputError(f"{file}: {reason}; compile the graph that belongs to export.json again, with atc.sh")
