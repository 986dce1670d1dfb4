"""Files from elsewhere: read without their packages, and never executed."""

import argparse
import builtins
import collections
import enum
import io
import os
import pickle
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch

from ds2f.checkpoint import torch_file
from ds2f.errors import InputError

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["since 1.6", "before 1.6"])


def saved(path: Path, content: object, *, zipped: bool) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Settings in classes of a package that is gone when the file is read."""
    module = types.ModuleType("deepspeech_pytorch.configs")

    class Spect:
        def __init__(self) -> None:
            self.sample_rate, self.window = 8000, Window.hann

    class Window(enum.Enum):
        hann = "hann"

    class Container:  # as OmegaConf's
        def __init__(self, content: object) -> None:
            self._content = content

    for each in (Spect, Window, Container):
        each.__module__, each.__qualname__ = module.__name__, each.__name__
        setattr(module, each.__name__, each)
    monkeypatch.setitem(sys.modules, "deepspeech_pytorch", types.ModuleType("deepspeech_pytorch"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return {
        "spect_cfg": Spect(),
        "labels": Container(["_", "A"]),
        "space": argparse.Namespace(width=3),
        "path": Path("/models"),
    }


@FORMATS
def test_classes_that_are_not_here_become_plain_values(
    tmp_path: Path, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    weights = collections.OrderedDict(a=torch.arange(3.0).half(), b=torch.nn.Parameter(torch.eye(2)), n=torch.tensor(7))
    path = saved(tmp_path / "a.pth", {"state_dict": weights, "hyper_parameters": settings}, zipped=zipped)
    monkeypatch.delitem(sys.modules, "deepspeech_pytorch.configs")
    monkeypatch.delitem(sys.modules, "deepspeech_pytorch")

    found = torch_file.read(path)

    assert all(torch.equal(found.content["state_dict"][name], leaf) for name, leaf in weights.items())
    values = torch_file.plain(found.content["hyper_parameters"])
    assert values["spect_cfg"] == {"sample_rate": 8000, "window": "hann"}
    assert values["labels"] == ["_", "A"]
    assert values["space"] == {"width": 3}
    assert {name for name in found.unknown if name.startswith("deepspeech_pytorch")} == {
        f"deepspeech_pytorch.configs.{name}" for name in ("Spect", "Window", "Container")
    }


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@FORMATS
@pytest.mark.parametrize(
    "function", [os.system, subprocess.call, builtins.eval, builtins.setattr, torch.hub.load, print]
)
def test_a_file_that_would_execute_something_is_refused(tmp_path: Path, function: object, zipped: bool) -> None:
    mark = tmp_path / "executed"
    arguments = {
        builtins.eval: (f"open({str(mark)!r}, 'w')",),
        builtins.setattr: (Calls, "a", 1),
        print: ("text",),
    }.get(function, (f"touch {mark}",))
    path = saved(tmp_path / "a.pth", {"state_dict": {}, "extra": Calls(function, *arguments)}, zipped=zipped)
    with pytest.raises(InputError, match="refused, nothing was executed"):
        torch_file.read(path)
    assert not mark.exists()


@FORMATS
def test_a_member_of_an_enumeration_is_its_name_however_python_writes_it(tmp_path: Path, zipped: bool) -> None:
    content = {"window": Calls(getattr, argparse.Namespace, "mro")}  # as Python 3.11.2 writes Namespace.mro
    found = torch_file.read(saved(tmp_path / "a.pth", content, zipped=zipped))
    assert torch_file.plain(found.content) == {"window": "mro"}


def test_a_function_of_an_unknown_package_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("helpers")
    called = []

    def touch(value: str) -> str:
        called.append(value)
        return value

    touch.__module__, touch.__qualname__ = "helpers", "touch"
    module.touch = touch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "helpers", module)
    path = saved(tmp_path / "a.pth", {"extra": Calls(touch, "x")}, zipped=True)
    found = torch_file.read(path)  # while the package can be imported
    assert not called
    assert torch_file.plain(found.content) == {"extra": "x"}
    assert found.unknown == ("helpers.touch",)


@pytest.mark.parametrize("cut", [0, 3, 50, 300, -1])
@FORMATS
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, cut: int, zipped: bool) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": {"a": torch.ones(1000)}}, zipped=zipped)
    path.write_bytes(path.read_bytes()[: cut if cut >= 0 else -2000])
    with pytest.raises(InputError) as error:
        torch_file.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    plain = saved(tmp_path / "a.pth", {"a": torch.zeros(10)}, zipped=True)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InputError, match="compressed"):
        torch_file.read(tmp_path / "b.pth")


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights\n")
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    (tmp_path / "script.pth").write_bytes(buffer.getvalue())
    (tmp_path / "empty.pth").touch()
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": collections.OrderedDict()}, protocol=4))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    names = ("text.pth", "script.pth", "empty.pth", "pickle.pth", "other.zip", "", "missing.pth")
    for path in (tmp_path / name for name in names):
        with pytest.raises(InputError) as error:
            torch_file.read(path)
        assert str(error.value).count(str(path)) == 1
        assert "enforce fail" not in str(error.value)
