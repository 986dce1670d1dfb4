"""Files of ``torch.save`` from elsewhere, read without executing anything in them.

torch's own restricted reader (``weights_only``) makes tensors and plain values. Classes of packages that need not be
here, such as settings of deepspeech.pytorch, become ``Stub`` objects, which hold what the file says of them.
"""

import _compat_pickle
import pickle
import pickletools
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from ds2f.errors import InputError
from ds2f.files import open_regular

_PLACE = re.compile(r"^\[enforce fail at [^]]*\][ .]*")  # in torch's source, before the reason
_PICKLES = 5  # of a file before torch 1.6, one after the other: magic number, protocol, system, object, storage keys
# Of the standard library and torch, what stands for data; another name from there has no business in a checkpoint.
# Some releases of Python write the member of an enumeration as getattr(class, name).
_DATA_CLASSES = {
    "argparse.Namespace", "builtins.bool", "builtins.bytes", "builtins.complex", "builtins.dict", "builtins.float",
    "builtins.frozenset", "builtins.getattr", "builtins.int", "builtins.list", "builtins.object", "builtins.set",
    "builtins.slice", "builtins.str", "builtins.tuple", "builtins.type", "collections.Counter",
    "collections.defaultdict", "collections.deque", "copyreg._reconstructor", "datetime.datetime",
    "datetime.timedelta", "decimal.Decimal", "fractions.Fraction", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar", "numpy.dtype", "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath",
    "pathlib.WindowsPath", "typing.Any", "typing.Dict", "typing.List", "typing.Optional", "typing.Tuple",
    "typing.Union",
}  # fmt: skip


class TorchFile(NamedTuple):
    """The content of a file."""

    content: Any  # tensors on the CPU, plain values, and stubs
    unknown: tuple[str, ...]  # the classes that became stubs, by their full names


class Stub:
    """An object of a class that is not here: the arguments and the state that the file gives it. It does nothing."""

    def __new__(cls, *arguments: Any, **_: Any) -> "Stub":
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    arguments: tuple[Any, ...]
    state: Any

    def __init__(self, *_: Any, **__: Any) -> None:
        """The arguments are kept by ``__new__``, which the reader may call alone."""

    def __setstate__(self, state: Any) -> None:
        """Keeps the state as it is."""
        self.state = state


def read(path: Path) -> TorchFile:
    """Reads a file of ``torch.save``, of the format before or since torch 1.6.

    Raises:
      InputError: the file is none, is damaged, compressed (its size could grow without limit), or names something of
        the standard library that is no data: it would have executed that, had it been loaded the usual way.
    """
    try:
        with open_regular(path) as file:
            names = set(_names(file, path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; check the path and its permissions") from error
    unknown = sorted(names)
    known = {f"{module}.{name}" for module, name in _torch_names()}
    dangerous = [_renamed(name) for name in unknown if name not in known and _executes(_renamed(name))]
    if dangerous:
        raise InputError(
            f"{path}: refused, nothing was executed. Loaded the usual way, it would call {', '.join(dangerous[:5])}: "
            "this is no data. Do not load the file with torch.load."
        )
    stubs = {name: type(name.rpartition(".")[2], (Stub,), {}) for name in unknown if name not in known}
    try:
        both: list[Any] = [(stub, each) for name, stub in stubs.items() for each in {name, _renamed(name)}]
        with torch.serialization.safe_globals(both):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise _unreadable(path, error) from error
    return TorchFile(content, tuple(stubs))


def _unreadable(path: Path, error: Exception) -> InputError:
    """The error of a file that is none of torch's, with the last line of the reader's reason."""
    lines = str(error).strip().splitlines()
    reason = _PLACE.sub("", lines[-1]) if lines else type(error).__name__
    return InputError(f"{path}: not a file of torch.save, or a damaged one ({reason[:200]}); give the model's file")


def plain(value: Any) -> Any:
    """Turns stubs into dicts, lists and values, as far as they hold such: settings of OmegaConf, dataclasses, enums."""
    if isinstance(value, Stub):
        state = value.state if isinstance(value.state, dict) else {}
        for content in ("_content", "_val"):  # OmegaConf's containers and nodes
            if content in state:
                return plain(state[content])
        if state:
            return plain(state)
        given = [each for each in value.arguments if not isinstance(each, type)]
        return plain(given[0] if len(given) == 1 else given)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _names(file: BinaryIO, path: Path) -> Iterator[str]:
    """The full names of all classes and functions that the pickles of the file name."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        yield from _names_in(file, _PICKLES, path)
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(f"{path}: its entries are compressed, which torch.save never does; not read")
            for entry in entries:
                if entry.filename.endswith("/data.pkl"):
                    with archive.open(entry) as pickled:
                        yield from _names_in(pickled, 1, path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise _unreadable(path, error) from error


def _names_in(file: Any, pickles: int, path: Path) -> Iterator[str]:
    try:
        for _ in range(pickles):
            for operation, argument, _ in pickletools.genops(file):
                if operation.name in ("GLOBAL", "INST"):
                    yield str(argument).replace(" ", ".")
                elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                    raise InputError(f"{path}: not of torch.save, whose pickles are of protocol 2; not read")
    except InputError:
        raise
    except (ValueError, EOFError) as error:
        raise _unreadable(path, error) from error


def _torch_names() -> Iterator[tuple[str, str]]:
    """What torch's restricted reader knows and may make: tensors and their parts."""
    yield "collections", "OrderedDict"
    yield from (("torch._utils", f"_rebuild_{name}") for name in ("tensor_v2", "tensor", "parameter"))
    yield from (("torch", name) for name in ("Size", "Tensor", "device"))
    yield "torch.nn.parameter", "Parameter"
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype) or name.endswith("Storage"):
            yield "torch", name
    yield "torch.storage", "UntypedStorage"
    yield "torch.storage", "_load_from_bytes"  # refused by torch's reader
    yield "_codecs", "encode"


def _executes(name: str) -> bool:
    """Whether a name is of Python, torch or NumPy, and not of a class that holds data."""
    package = name.partition(".")[0]
    return name not in _DATA_CLASSES and (package in sys.stdlib_module_names or package in ("torch", "numpy"))


def _renamed(name: str) -> str:
    """The name in Python 3 of a name that pickle's protocol 2 writes as Python 2 had it."""
    module, _, last = name.rpartition(".")
    module, last = _compat_pickle.NAME_MAPPING.get((module, last), (module, last))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{last}"
