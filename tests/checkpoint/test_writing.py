"""A checkpoint is whole only after it was read back; a small one is written first; nothing around a run decides it."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, variables
from test_checkpoint import CFG, assert_same_bits, folders, make_state, small_disk  # noqa: F401  a fixture

from ds2f import config, tree
from ds2f.checkpoint import Checkpoints, load_model, writing
from ds2f.checkpoint.orbax_io import ArrayStore
from ds2f.errors import InputError

NAMES = (
    "".join(each for each in map(chr, range(32, 127)) if each != "/"),
    "x[lr]",
    "p [v2]/{a,b}/run",
    "a\\b",
    "50%20#part?x=*",
    "~",
    "naïve 模型",
    os.fsdecode(b"caf\xe9"),
    "two\nlines",
)


@pytest.fixture
def said():
    return []


@pytest.mark.parametrize("name", NAMES)
def test_a_run_may_lie_on_any_path(tmp_path, said, name):
    run_dir = tmp_path / name
    checkpoints, state = Checkpoints(run_dir, warn=said.append), make_state()
    checkpoints.prove()
    for iteration in range(1, 5):
        checkpoints.save(iteration, state, {"epoch": iteration}, score=float(iteration))
    restored, progress = checkpoints.restore(checkpoints.find("last"), make_state(value=1.0))
    checkpoints.close()
    assert_same_bits(restored, state)
    assert progress == {"epoch": 4}
    assert (said, folders(run_dir)) == ([], ["1", "3", "4"])
    (run_dir / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    assert_same_bits(load_model(run_dir)[1], state.params)


def test_the_folders_of_odd_paths_are_closed_again(tmp_path):
    folder, store = tmp_path / "x[lr]", ArrayStore()
    folder.mkdir()
    store.save(folder / "0", {"a": np.ones(2)})
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(1, 4):
        store.save(folder / str(number), {"a": np.ones(2)})
        store.restore(folder / str(number), ["a"])
    store.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def run_python(code, **environment):
    """Runs a program of its own, since jax reads its environment once, at its import."""
    code = "import json, os, sys\nfrom test_checkpoint import make_state\nfrom ds2f.checkpoint import Checkpoints\n" + (
        textwrap.dedent(code)
    )
    path = os.pathsep.join(str(ROOT / each) for each in ("", "tests", "tests/checkpoint"))
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=variables({**environment, "PYTHONPATH": path}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"JAX_PLATFORMS": "cuda"},
        {"JAX_PLATFORM_NAME": "gpu", "XLA_FLAGS": "--no_such_flag=1"},
        {"JAX_PLATFORMS": "tpu,cuda", "JAX_ENABLE_X64": "perhaps", "XLA_PYTHON_CLIENT_MEM_FRACTION": "all"},
    ],
)
def test_jaxs_environment_has_no_effect_and_is_left_to_others(tmp_path, environment):
    out = run_python(
        f"""
        before, checkpoints = dict(os.environ), Checkpoints({str(tmp_path)!r})
        checkpoints.prove()
        checkpoints.save(1, make_state(), {{}})
        checkpoints.restore(1, make_state())
        checkpoints.close()
        import jax
        print(jax.default_backend(), dict(os.environ) == before)
        """,
        **environment,
    )
    assert out == "cpu True\n"
    assert folders(tmp_path) == ["1"]


@pytest.fixture(scope="module")
def faulty_files(tmp_path_factory):
    """The library of ``faulty_files.c``."""
    compiler, library = shutil.which("cc"), tmp_path_factory.mktemp("library") / "faulty_files.so"
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = Path(__file__).parents[1] / "faulty_files.c"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)


def test_a_file_system_without_locks_or_without_fsync_holds_checkpoints(tmp_path, faulty_files):
    out = run_python(
        f"""
        import errno
        for name in ("ENOSYS", "EINVAL", "ENOTSUP", "ENOLCK"):
            for variable in ("LOCK_ERRNO", "FSYNC_ERRNO"):
                os.environ[variable] = str(getattr(errno, name))
                said = []
                run_dir = os.path.join({str(tmp_path)!r}, name + variable)
                checkpoints = Checkpoints(run_dir, warn=said.append)
                checkpoints.prove()
                checkpoints.save(1, make_state(), {{}})
                checkpoints.save(2, make_state(), {{}})
                checkpoints.restore(2, make_state())
                checkpoints.close()
                print(json.dumps([variable, sorted(os.listdir(run_dir + "/checkpoints")), said]))
                del os.environ[variable]
        """,
        LD_PRELOAD=faulty_files,
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line[0] for line in lines] == ["LOCK_ERRNO", "FSYNC_ERRNO"] * 4
    for variable, found, said in lines:
        assert found == ["1", "2"]
        assert len(said) == (variable == "FSYNC_ERRNO")
        assert all("cannot flush files to the disk" in message for message in said)


def test_an_fsync_that_fails_for_another_reason_ends_the_start(tmp_path, faulty_files):
    out = run_python(
        f"""
        from ds2f.errors import InputError
        os.environ["FSYNC_ERRNO"] = "5"
        try:
            Checkpoints({str(tmp_path / "run")!r}).prove()
        except InputError as error:
            print(error)
        """,
        LD_PRELOAD=faulty_files,
    )
    assert out.startswith(f"checkpoints cannot be written to {tmp_path}/run/checkpoints: Input/output error.")
    assert out.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def flip(array):
    """The array with another lowest bit in its last byte."""
    changed = np.array(array)
    changed.reshape(-1).view(np.uint8)[-1] ^= 1
    return changed


def other_bits(store, monkeypatch):
    restore = store.restore
    monkeypatch.setattr(
        store, "restore", lambda folder, names: {name: flip(each) for name, each in restore(folder, names).items()}
    )


def other_shapes(store, monkeypatch):
    shapes = store.shapes
    monkeypatch.setattr(store, "shapes", lambda folder: {name: (*shape, 1) for name, shape in shapes(folder).items()})


def unreadable(store, monkeypatch):
    def fail(folder, names):
        raise ValueError("NOT_FOUND: no manifest [tensorstore_spec='{}']")

    monkeypatch.setattr(store, "restore", fail)


@pytest.mark.parametrize("fault", [other_bits, other_shapes, unreadable])
def test_what_is_not_read_back_as_it_was_written_is_no_checkpoint(tmp_path, said, monkeypatch, fault):
    checkpoints = Checkpoints(tmp_path, warn=said.append)
    checkpoints.save(1, make_state(), {})
    assert checkpoints.wait()
    with monkeypatch.context() as patch:
        fault(checkpoints._store, patch)
        checkpoints.save(2, make_state(), {})
        assert not checkpoints.wait()
        with pytest.raises(InputError, match=r"cannot be written to .*checkpoints: .*read back.* Repair it, or give"):
            checkpoints.prove()
    assert len(said) == 1
    assert said[0].startswith("checkpoint 2 was not written: ")
    assert "read back" in said[0]
    assert (folders(tmp_path), checkpoints.find("last")) == (["1"], 1)
    checkpoints.save(3, make_state(), {})
    assert checkpoints.close()
    assert folders(tmp_path) == ["1", "3"]


def test_large_checkpoints_are_read_back_a_part_at_a_time(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    restore, parts = checkpoints._store.restore, []

    def counted(folder, names):
        read = restore(folder, names)
        parts.append(sum(each.nbytes for each in read.values()))
        return read

    monkeypatch.setattr(writing, "_PART", 4096)
    monkeypatch.setattr(checkpoints._store, "restore", counted)
    state = make_state()
    checkpoints.save(1, state, {})
    checkpoints.close()
    largest = max(leaf.nbytes for leaf in tree.leaves(state))
    assert len(parts) > 3
    assert max(parts) <= max(4096, largest)


def test_the_probe_leaves_nothing_and_clears_what_a_killed_start_left(tmp_path):
    (tmp_path / "checkpoints" / ".probe" / "state").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.prove()
    assert folders(tmp_path) == []
    assert checkpoints.find("last") is None
    checkpoints.close()


def test_a_full_disk_ends_the_start_and_leaves_no_folder(small_disk):  # noqa: F811  the fixture
    filler = small_disk / "other"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    with pytest.raises(InputError, match="No space left on device"):
        Checkpoints(small_disk / "run").prove()
    filler.unlink()
    assert not (small_disk / "run" / "checkpoints").exists()
    Checkpoints(small_disk / "run").prove()
