"""Checkpoints read back what was written, keep the best and the newest, and never hand out what is not whole."""

import errno
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import pytest
import torch

import ds2f
from ds2f import checkpoint, config, optim, steps, tree
from ds2f.checkpoint import Checkpoints, integrity, retention, storage, writing
from ds2f.config import CheckpointingConfig, Config, ModelConfig
from ds2f.errors import InputError
from ds2f.runner.progress import TrainProgress
from ds2f.types import Averages, LossScale

CFG = Config(model=ModelConfig(hidden_size=4, hidden_layers=2, num_bins=9))
ROOT = Path(__file__).parents[2]


def make_state(value=0.0, tx=None):
    state = steps.init_state(CFG, tx or optim.adamw(0.1), key=3)
    return state._replace(params=tree.map(lambda leaf: leaf + value, state.params))


@pytest.fixture
def said():
    return []


@pytest.fixture
def checkpoints(tmp_path, said):
    opened = Checkpoints(tmp_path, warn=said.append)
    yield opened
    opened.close()


def assert_same_bits(a, b):
    assert tree.flatten_with_paths(a).keys() == tree.flatten_with_paths(b).keys()
    for path, leaf in tree.flatten_with_paths(a).items():
        other = tree.flatten_with_paths(b)[path]
        assert leaf.dtype == other.dtype, path
        assert leaf.shape == other.shape, path
        integer = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[leaf.dtype.itemsize]
        assert torch.equal(leaf.contiguous().view(integer), other.contiguous().view(integer)), path


def folders(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_state_and_its_position_come_back_as_they_were(checkpoints):
    state = make_state()._replace(loss_scale=LossScale(torch.tensor(512.0), torch.tensor(7, dtype=torch.int32)))
    position = {"epoch": 2, "batch": 17, "best_score": float("inf")}
    checkpoints.save(5, state, position)
    restored, place = checkpoints.restore(5, make_state(value=1.0))
    assert_same_bits(restored, state)
    assert place == position | {"best_score": None}  # JSON has no infinity


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_bit_pattern_of_every_float_type_comes_back(checkpoints, dtype):
    integer = {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]
    bits = torch.randint(-(2**15), 2**15, (4096,), generator=torch.Generator().manual_seed(0)).to(integer)
    bits = bits << 8 * (dtype.itemsize - 2)  # exponents of ones among them: infinities and NaNs with payloads
    state = make_state()
    state = state._replace(params={**state.params, "odd": bits.view(dtype), "one": bits[:1].view(dtype)[0]})
    assert state.params["odd"].isnan().any()
    checkpoints.save(1, state, {})
    assert_same_bits(checkpoints.restore(1, tree.map(torch.zeros_like, state))[0], state)


def test_empty_integer_and_boolean_leaves_come_back(checkpoints):
    leaves = {"empty": torch.zeros(0, 3), "flag": torch.tensor([True, False]), "count": torch.tensor(3)}
    state = make_state()._replace(opt_state={**leaves, "transposed": torch.arange(6.0).reshape(2, 3).T})
    checkpoints.save(1, state, {})
    assert_same_bits(checkpoints.restore(1, tree.map(torch.zeros_like, state))[0], state)


def test_a_half_precision_leaf_is_widened_and_never_narrowed(checkpoints):
    state = make_state()
    half = state._replace(params=tree.cast(state.params, torch.bfloat16))
    checkpoints.save(1, half, {})
    assert_same_bits(checkpoints.restore(1, state)[0].params, tree.cast(half.params, torch.float32))
    checkpoints.save(2, state, {})
    with pytest.raises(InputError, match=r"params/.* type"):
        checkpoints.restore(2, half)


def test_saving_returns_before_the_checkpoint_is_written_and_writes_the_state_as_it_was(checkpoints, monkeypatch):
    go_on, written = threading.Event(), threading.Event()
    write = integrity.write

    def slow(folder):
        assert go_on.wait(60)
        write(folder)
        written.set()

    monkeypatch.setattr(integrity, "write", slow)
    monkeypatch.setattr(checkpoints._store, "save", after(go_on, checkpoints._store.save))
    state, position = make_state(), {"epoch": 1}
    expected = tree.map(torch.clone, state)
    checkpoints.save(1, state, position)
    assert not written.is_set()
    for leaf in tree.leaves(state):
        leaf.zero_()
    position["epoch"] = 9
    go_on.set()
    restored, place = checkpoints.restore(1, expected)  # waits
    assert_same_bits(restored, expected)
    assert place == {"epoch": 1}


def after(event, fn):
    def waits(*args, **kwargs):
        assert event.wait(60)
        return fn(*args, **kwargs)

    return waits


def test_the_second_save_reuses_the_memory_of_the_first_once_it_is_written(checkpoints):
    states = [make_state(value=float(value)) for value in range(3)]
    memory = []
    for iteration, state in enumerate(states):
        checkpoints.save(iteration, state, {})
        memory.append({path: leaf.data_ptr() for path, leaf in checkpoints._buffers.items()})
    assert memory[0] == memory[1] == memory[2]
    for iteration in (1, 2):
        assert_same_bits(checkpoints.restore(iteration, states[0])[0], states[iteration])


def test_the_newest_two_and_the_best_are_kept(checkpoints, tmp_path):
    for iteration, score in ((1, 50.0), (2, 20.0), (3, None), (4, 30.0), (5, None)):
        checkpoints.save(iteration, make_state(), {}, score=score)
    assert (checkpoints.find("best"), checkpoints.find("last")) == (2, 5)
    assert checkpoints.find_all("last:9") == [5, 4, 2]
    assert checkpoints.find_all("best:9") == [2, 4]
    assert (checkpoints.find(2), checkpoints.find("4")) == (2, 4)
    assert checkpoints.find(1) is None
    assert checkpoints.find(3) is None
    assert folders(tmp_path) == ["2", "4", "5"]


def test_more_of_the_best_are_kept_for_averaging_and_at_least_two_whatever_is_asked(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_best=3)
    for iteration, score in enumerate((9.0, 3.0, 8.0, 1.0, 2.0, 7.0, 6.0, 6.0)):
        checkpoints.save(iteration, make_state(), {}, score=score)
    checkpoints.close()
    assert folders(tmp_path) == ["1", "3", "4", "6", "7"]


def test_among_equal_scores_the_first_is_the_best_as_the_run_itself_marks_it(checkpoints):
    for iteration in (1, 2, 3):
        checkpoints.save(iteration, make_state(), {}, score=5.0)
    assert checkpoints.find("best") == 1


def test_a_score_that_follows_its_checkpoint_decides_like_one_that_came_with_it(checkpoints, tmp_path):
    for iteration, score in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, None)):
        checkpoints.save(iteration, make_state(iteration), {"iteration": iteration, "validated": False})
        if score is not None:
            assert checkpoints.add_validation({"iteration": iteration, "validated": True}, score=score)
    assert checkpoints.find("best") == 2
    assert folders(tmp_path) == ["2", "4", "5"]
    for iteration, validated in ((2, True), (4, True), (5, False)):
        state, progress = checkpoints.restore(iteration, make_state())
        assert progress == {"iteration": iteration, "validated": validated}
        assert_same_bits(state, make_state(iteration))
    assert checkpoints.add_validation({"iteration": 5, "validated": True}, score=0.5)  # of the restored checkpoint
    assert checkpoints.find("best") == 5


def test_a_damaged_score_leaves_its_checkpoint_whole_and_not_validated(checkpoints, tmp_path):
    for iteration in (1, 2):
        checkpoints.save(iteration, make_state(iteration), {"validated": False}, score=None)
        checkpoints.add_validation({"validated": True}, score=float(iteration))
    assert checkpoints.find("best") == 1
    path = tmp_path / "checkpoints" / "1" / "validated.json"
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"[]",
        b"[" * 100_000,
        *(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in (12, 40)),
    ):
        path.write_bytes(damaged)
        assert checkpoints.find("best") == 2
        assert checkpoints.restore(1, make_state())[1] == {"validated": False}


def test_a_score_for_a_checkpoint_that_was_not_written_is_left_to_the_next_try(checkpoints, monkeypatch, said):
    def refuse(folder, size):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(storage, "require_free", refuse)
    checkpoints.save(1, make_state(), {})
    assert not checkpoints.add_validation({}, score=1.0)
    assert "was not written: No space left on device" in said[0]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        ValueError("FAILED: cannot write [os_error_code='5']"),
        ValueError("no"),
    ],
)
@pytest.mark.parametrize(("module", "name"), [(writing, "write"), (integrity, "add"), (integrity, "write")])
def test_a_write_that_fails_once_costs_neither_checkpoint_nor_score(
    checkpoints, monkeypatch, said, module, name, error
):
    checkpoints.save(1, make_state(), {}, score=2.0)
    assert checkpoints.wait()
    real, errors = getattr(module, name), [error]

    def fail_once(*arguments):
        if errors:
            raise errors.pop()
        return real(*arguments)

    monkeypatch.setattr(module, name, fail_once)
    checkpoints.save(2, make_state(), {})
    assert checkpoints.add_validation({"validated": True}, score=1.0)
    assert checkpoints.find("best") == 2
    assert checkpoints.restore(2, make_state())[1] == {"validated": True}
    assert [text.partition(" was written at the second try; the first failed: ")[1] != "" for text in said] == [True]


def test_without_a_score_the_best_is_the_last(checkpoints):
    assert checkpoints.find("best") is None
    for iteration in (1, 2):
        checkpoints.save(iteration, make_state(), {})
    assert checkpoints.find("best") == 2


@pytest.mark.parametrize("which", ["newest", "best:0", "best:", "-1", "1.5", ""])
def test_a_choice_that_means_nothing_is_refused_with_those_that_do(checkpoints, which):
    with pytest.raises(InputError, match="best:N"):
        checkpoints.find(which)


def test_saving_an_iteration_again_replaces_it_and_never_leaves_it_without_a_whole_one(checkpoints, tmp_path):
    checkpoints.save(1, make_state(), {"epoch": 0})
    checkpoints.wait()
    discard, removed = checkpoints._retention.discard, []

    def watched(path):
        removed.append(path.name)
        others = [entry.path for entry in checkpoints._retention.entries() if entry.path != path]
        assert any(integrity.fault(other) is None for other in others)
        discard(path)

    checkpoints._retention.discard = watched
    checkpoints.save(1, make_state(value=2.0), {"epoch": 1}, score=3.0)
    restored, position = checkpoints.restore(1, make_state())
    assert position == {"epoch": 1}
    assert_same_bits(restored, make_state(value=2.0))
    assert removed == ["1"]
    assert checkpoints.find_all("last:2") == [1]
    checkpoints.save(1, make_state(value=3.0), {})
    assert_same_bits(checkpoints.restore(1, make_state())[0], make_state(value=3.0))


def test_of_two_attempts_at_one_iteration_the_later_whole_one_counts(tmp_path, said):
    first, second = tmp_path / "first", tmp_path / "second"
    for run_dir, value in ((first, 1.0), (second, 2.0)):
        checkpoints = Checkpoints(run_dir)
        checkpoints.save(7, make_state(value=value), {})
        checkpoints.close()
    shutil.copytree(second / "checkpoints" / "7", first / "checkpoints" / "7.1")  # killed before 7 was removed
    checkpoints = Checkpoints(first, warn=said.append)
    assert checkpoints.find("last") == 7
    assert_same_bits(checkpoints.restore(7, make_state())[0], make_state(value=2.0))
    (first / "checkpoints" / "7.1" / "position.json").write_text("{ }")
    assert checkpoints.find("last") == 7
    assert_same_bits(checkpoints.restore(7, make_state())[0], make_state(value=1.0))
    assert folders(first) == ["7"]
    assert "position.json" in said[0]
    checkpoints.close()


def test_a_checkpoint_says_which_configuration_and_code_wrote_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, cfg=CFG)
    checkpoints.save(3, make_state(), {}, score=4.5)
    checkpoints.close()
    about = retention.about(tmp_path / "checkpoints" / "3")
    assert config.from_dict(about["config"]) == CFG
    assert (about["version"], about["score"], about["iteration"]) == (ds2f.__version__, 4.5, 3)
    assert about["leaves"]["params/output/weight"] == ["float32", [29, 4]]


def test_a_checkpoint_of_another_optimizer_or_shape_is_refused_by_leaf(checkpoints):
    checkpoints.save(1, make_state(), {})
    with pytest.raises(InputError, match=r"opt_state.*flags\.txt"):
        checkpoints.restore(1, make_state(tx=optim.sgd(0.1)))
    other = make_state()
    other.params["output"]["weight"] = torch.zeros(30, 4)
    with pytest.raises(InputError, match="params/output/weight"):
        checkpoints.restore(1, other)


# What damages a file, from what it holds.
DAMAGE = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "shorter by a byte": lambda content: content[:-1],
    "longer by a byte": lambda content: content + b"\0",
    "first byte flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "middle byte flipped": lambda content: flip(content, len(content) // 2),
    "last byte flipped": lambda content: flip(content, len(content) - 1),
    "zeroed": lambda content: bytes(len(content)),
    "removed": lambda content: None,
}


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run with checkpoints 1 and 2, to be copied and damaged."""
    run_dir = tmp_path_factory.mktemp("whole")
    (run_dir / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    checkpoints = Checkpoints(run_dir)
    for iteration in (1, 2):
        checkpoints.save(iteration, make_state(value=float(iteration)), {"epoch": iteration}, score=-iteration)
    checkpoints.close()
    return run_dir


def damage(path, how):
    content = DAMAGE[how](path.read_bytes())
    path.unlink()  # the copies share their bytes with the whole run
    if content is not None:
        path.write_bytes(content)


def copy_of(whole_run, to):
    return Path(shutil.copytree(whole_run, to, copy_function=os.link))


@pytest.mark.parametrize("how", DAMAGE)
def test_whatever_file_of_the_newest_is_damaged_the_one_before_is_found_and_the_file_named(whole_run, tmp_path, how):
    names = [path.relative_to(whole_run) for path in files(whole_run / "checkpoints" / "2")]
    assert len(names) > 8
    for index, name in enumerate(names):
        run_dir, said = copy_of(whole_run, tmp_path / str(index)), []
        damage(run_dir / name, how)
        checkpoints = Checkpoints(run_dir, warn=said.append)
        if name.name != integrity.FILE or how != "removed":  # without it, a checkpoint was never finished
            with pytest.raises(InputError, match=name.name):
                checkpoints.find(2)
        with pytest.raises(InputError, match=name.name):
            checkpoints.restore(2, make_state())
        assert checkpoints.find("best" if index % 2 else "last") == 1, name
        assert len(said) == 1
        assert str(run_dir / name) in said[0]
        assert folders(run_dir) == ["1"]
        if index == 0:
            assert_same_bits(checkpoints.restore(1, make_state())[0], make_state(value=1.0))
            checkpoints.save(2, make_state(value=2.5), {})
            assert_same_bits(checkpoints.restore(2, make_state())[0], make_state(value=2.5))
        checkpoints.close()


@pytest.mark.parametrize("how", DAMAGE)
def test_when_all_are_damaged_the_run_stops_naming_the_files_and_removes_nothing(whole_run, tmp_path, how):
    run_dir = copy_of(whole_run, tmp_path / "run")
    for iteration in (1, 2):
        damage(run_dir / "checkpoints" / str(iteration) / "state" / "manifest.ocdbt", how)
    checkpoints = Checkpoints(run_dir)
    for which in ("last", "best", "best:2"):
        with pytest.raises(InputError, match=r"2/state/manifest\.ocdbt.*1/state/manifest\.ocdbt"):
            checkpoints.find(which)
    assert folders(run_dir) == ["1", "2"]
    checkpoints.close()
    with pytest.raises(InputError, match=r"2/state/manifest\.ocdbt"):
        checkpoint.load_model(run_dir)


def test_a_foreign_file_and_a_foreign_folder_are_told_from_a_checkpoints(whole_run, tmp_path, said):
    run_dir = copy_of(whole_run, tmp_path / "run")
    (run_dir / "checkpoints" / "2" / "state" / "d" / "more").write_bytes(b"")
    (run_dir / "checkpoints" / "notes").mkdir()
    checkpoints = Checkpoints(run_dir, warn=said.append)
    assert checkpoints.find("last") == 1
    assert "2/state/d/more" in said[0]
    checkpoints.save(3, make_state(), {})
    checkpoints.close()
    assert folders(run_dir) == ["1", "3", "notes"]


def test_what_was_being_written_when_a_run_died_is_passed_over_and_removed(whole_run, tmp_path, said):
    run_dir = copy_of(whole_run, tmp_path / "run")
    (run_dir / "checkpoints" / "3" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoints = Checkpoints(run_dir, warn=said.append)
    assert checkpoints.find("last") == 2
    assert "checkpoint 3 is passed over" in said[0]
    assert folders(run_dir) == ["1", "2"]
    checkpoints.close()


def test_a_run_that_died_while_writing_its_first_checkpoint_starts_over(tmp_path, said):
    (tmp_path / "checkpoints" / "3" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path, warn=said.append)
    assert checkpoints.find("last") is None
    checkpoints.save(3, make_state(), {})
    assert checkpoints.find("last") == 3
    checkpoints.close()
    assert len(folders(tmp_path)) == 1


def test_a_damaged_checkpoint_takes_no_place_from_a_whole_one(whole_run, tmp_path):
    run_dir = copy_of(whole_run, tmp_path / "run")
    damage(run_dir / "checkpoints" / "2" / "state" / "manifest.ocdbt", "emptied")
    checkpoints = Checkpoints(run_dir)
    checkpoints.save(3, make_state(), {}, score=9.0)
    assert checkpoints.wait()
    assert folders(run_dir) == ["1", "3"]
    checkpoints.close()


def test_a_score_that_was_tampered_with_does_not_decide(whole_run, tmp_path, said):
    run_dir = copy_of(whole_run, tmp_path / "run")
    path = run_dir / "checkpoints" / "1" / "run.json"
    content = path.read_text().replace('"score": -1', '"score": -9')
    path.unlink()
    path.write_text(content)
    checkpoints = Checkpoints(run_dir, warn=said.append)
    assert checkpoints.find("best") == 2
    assert str(path) in said[0]
    checkpoints.close()


def test_a_checkpoint_that_cannot_be_read_for_a_while_is_passed_over_and_kept(whole_run, tmp_path, said, monkeypatch):
    run_dir, sha256 = copy_of(whole_run, tmp_path / "run"), integrity._sha256

    def fails(path, *, start):
        if f"checkpoints/{broken}/" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return sha256(path, start=start)

    monkeypatch.setattr(integrity, "_sha256", fails)
    checkpoints, broken = Checkpoints(run_dir, warn=said.append), 2
    assert checkpoints.find("last") == 1
    assert "checkpoint 2 is passed over" in said[0]
    assert "Input/output error" in said[0]
    for iteration in (3, 4):
        checkpoints.save(iteration, make_state(), {})
    checkpoints.wait()
    assert folders(run_dir) == ["1", "2", "3", "4"]  # 1 is the best of those that can be read
    broken = None
    assert checkpoints.find("best") == 2
    checkpoints.save(5, make_state(), {})
    checkpoints.close()
    assert folders(run_dir) == ["2", "4", "5"]


def test_reading_a_run_changes_nothing_in_it(whole_run, tmp_path, said):
    run_dir = copy_of(whole_run, tmp_path / "run")
    under_way = run_dir / "checkpoints" / "3" / "state.orbax-checkpoint-tmp"
    under_way.mkdir(parents=True)
    damage(run_dir / "checkpoints" / "2" / "position.json", "emptied")
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    _, params, _ = checkpoint.load_model(run_dir, warn=said.append)
    assert_same_bits(params, make_state(value=1.0).params)
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    assert len(said) == 2
    with pytest.raises(InputError, match="no run"):
        checkpoint.load_model(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


KILLED = """
import os, sys
import torch
from ds2f.checkpoint import Checkpoints
from ds2f.types import LossScale, TrainState

def state(value):
    leaves = {str(index): torch.full((size,), float(value)) for index, size in enumerate((1, 70, 300_000))}
    return TrainState(torch.tensor(value), leaves, {}, leaves, LossScale(torch.tensor(1.0), torch.tensor(value)))

def save_forever(run_dir):
    checkpoints = Checkpoints(run_dir)
    last = checkpoints.find("last") or 0
    while True:
        last += 1
        for _ in range(2):  # the second takes the place of the first
            checkpoints.save(last, state(last), {"iteration": last}, score=float(last))
            checkpoints.wait()
            print(last, flush=True)

if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            save_forever(line.strip())
        print("pid", pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)
"""


def test_killed_at_any_moment_of_a_save_a_whole_checkpoint_is_found_bit_for_bit(tmp_path, said):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    sys.path.insert(0, str(tmp_path))
    try:
        from killed import state
    finally:
        sys.path.remove(str(tmp_path))
    chance, run_dir, unfinished = random.Random(0), tmp_path / "run", 0
    with subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as mother:
        done = 0
        for _ in range(10):
            print(run_dir, file=mother.stdin, flush=True)
            pid, lines = None, []
            for line in mother.stdout:
                lines.append(line)
                if line.startswith("pid"):
                    pid = int(line.split()[1])
                if pid and any(text.strip().isdigit() for text in lines):
                    break
            time.sleep(chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
            for line in mother.stdout:
                if line.startswith("dead"):
                    break
                lines.append(line)
            done = max([done, *(int(line) for line in lines if line.strip().isdigit())])
            unfinished += any(not (path / integrity.FILE).exists() for path in (run_dir / "checkpoints").iterdir())
            checkpoints = Checkpoints(run_dir, warn=said.append)
            last = checkpoints.find("last")
            assert last in (done, done + 1)
            restored, position = checkpoints.restore(last, state(0))
            checkpoints.close()
            assert_same_bits(restored, state(last))
            assert position == {"iteration": last}
        mother.stdin.close()
    assert unfinished > 2, "few kills hit a write"
    assert all("missing, though written last" in text for text in said), said


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 8 MB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


@pytest.mark.parametrize("foreseen", [True, False])
def test_on_a_full_disk_the_run_goes_on_and_the_next_checkpoint_is_kept_once_there_is_room(
    small_disk, said, foreseen, monkeypatch, capfd
):
    if not foreseen:  # another process takes the room while the checkpoint is written
        monkeypatch.setattr(storage, "require_free", lambda folder, size: None)
    checkpoints, state = Checkpoints(small_disk, warn=said.append), make_state()
    checkpoints.save(1, state, {}, score=1.0)
    assert checkpoints.wait()
    before = {path: path.read_bytes() for path in files(small_disk)}
    size, free = sum(map(len, before.values())), shutil.disk_usage(small_disk).free
    for share in (0, 0.02, 0.3, 0.6, 0.9, 0.98):  # the disk is full sooner or later
        (small_disk / "other").write_bytes(bytes(free - int(share * size)))
        said.clear()
        checkpoints.save(2, state, {}, score=0.5)
        assert not checkpoints.wait(), share
        assert "checkpoint 2 was not written: No space left on device" in said[0]
        assert len(said) == 1
        (small_disk / "other").unlink()
        assert {path: path.read_bytes() for path in files(small_disk)} == before
        assert (checkpoints.find("last"), checkpoints.find("best")) == (1, 1)
    checkpoints.save(2, state, {}, score=0.5)
    assert checkpoints.close()
    assert len(said) == 1
    assert folders(small_disk) == ["1", "2"]
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_becomes_unwritable_is_a_warning_and_at_the_start_an_error(small_disk, said):
    checkpoints = Checkpoints(small_disk, warn=said.append)
    checkpoints.save(1, make_state(), {})
    assert checkpoints.wait()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    checkpoints.save(2, make_state(), {})
    assert not checkpoints.wait()
    assert "checkpoint 2 was not written: Read-only file system" in said[0]
    with pytest.raises(InputError, match="Read-only file system"):
        Checkpoints(small_disk).prove()
    assert checkpoint.Checkpoints(small_disk, read_only=True).find("last") == 1
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    checkpoints.save(3, make_state(), {})
    assert checkpoints.close()
    assert len(said) == 1


def test_a_folder_that_goes_away_is_a_warning_and_is_made_again(checkpoints, tmp_path, said):
    checkpoints.save(1, make_state(), {})
    checkpoints.wait()
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("in the way")
    checkpoints.save(2, make_state(), {})
    assert not checkpoints.wait()
    assert "checkpoint 2 was not written" in said[-1]
    (tmp_path / "checkpoints").unlink()
    checkpoints.save(3, make_state(), {})
    assert checkpoints.find("last") == 3


def test_an_error_that_is_not_the_file_systems_comes_out_at_the_next_call(checkpoints, tmp_path, monkeypatch):
    def broken(folder):
        raise RuntimeError("a mistake in the program")

    monkeypatch.setattr(integrity, "write", broken)
    checkpoints.save(1, make_state(), {})
    with pytest.raises(RuntimeError, match="a mistake"):
        checkpoints.save(2, make_state(), {})
    assert folders(tmp_path) == []


def test_load_model_takes_the_best_the_last_or_a_number(tmp_path, checkpoints):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    for iteration, score in ((1, 20.0), (2, 30.0)):
        checkpoints.save(iteration, make_state(value=float(iteration)), {}, score=score)
    checkpoints.wait()
    for which, value in (("best", 1.0), ("last", 2.0), (2, 2.0), ("2", 2.0)):
        cfg, params, stats = checkpoint.load_model(tmp_path, which=which)
        assert cfg == CFG
        assert_same_bits((params, stats), (make_state(value=value).params, make_state().stats))
    with pytest.raises(InputError, match="7"):
        checkpoint.load_model(tmp_path, which=7)


def noisy_state(key):
    drawn = torch.Generator().manual_seed(key)
    return tree.map(lambda leaf: leaf + torch.rand(leaf.shape, generator=drawn), make_state())


@pytest.mark.parametrize(("which", "averaged"), [("best:2", (2, 4)), ("last:2", (4, 3)), ("best:9", (2, 4, 3))])
def test_load_model_averages_in_double_precision(tmp_path, said, which, averaged):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    checkpoints, states = Checkpoints(tmp_path, keep_best=2), {}
    for iteration, score in ((2, 1.0), (3, 9.0), (4, 5.0)):
        states[iteration] = noisy_state(iteration)
        checkpoints.save(iteration, states[iteration], {}, score=score)
    checkpoints.close()
    _, *found = checkpoint.load_model(tmp_path, which=which, warn=said.append)
    for mine, name in zip(found, ("params", "stats"), strict=True):
        flat = [tree.flatten_with_paths(getattr(states[iteration], name)) for iteration in averaged]
        for path, leaf in tree.flatten_with_paths(mine).items():
            mean = sum(leaves[path].double().numpy() for leaves in flat) / len(flat)
            assert leaf.dtype == torch.float32
            assert (leaf.numpy() == mean.astype("float32")).all(), path
    assert (["mean of 3" in text for text in said]) == ([True] if which == "best:9" else [])


def averaged_state(key):
    state = noisy_state(key)
    return state._replace(average=Averages(*(tree.map(lambda leaf: leaf + 1, part) for part in state.model)))


@pytest.mark.parametrize(("which", "averaged"), [("best", (2,)), ("last", (4,)), (3, (3,)), ("best:2", (2, 4))])
def test_load_model_takes_the_moving_averages_where_a_run_kept_them(tmp_path, which, averaged):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    checkpoints = Checkpoints(tmp_path, keep_best=2)
    states = {iteration: averaged_state(iteration) for iteration in (2, 3, 4)}
    for iteration, score in ((2, 1.0), (3, 9.0), (4, 5.0)):
        checkpoints.save(iteration, states[iteration], {}, score=score)
    assert_same_bits(checkpoints.restore(4, averaged_state(0))[0], states[4])
    checkpoints.close()
    _, *found = checkpoint.load_model(tmp_path, which=which)
    assert_same_bits(tuple(found), tree.mean(states[iteration].model for iteration in averaged))


def test_averages_are_neither_made_up_nor_dropped_in_going_on(checkpoints):
    checkpoints.save(1, make_state(), {})
    checkpoints.save(2, averaged_state(2), {})
    with pytest.raises(InputError, match=r"average/params.*flags\.txt"):
        checkpoints.restore(1, averaged_state(0))
    with pytest.raises(InputError, match=r"average/params.*flags\.txt"):
        checkpoints.restore(2, make_state())


def test_a_run_from_before_there_were_averages_is_read(tmp_path):
    # Without averages a checkpoint holds what it held then; its configuration did not have the setting.
    settings = config.to_dict(CFG)
    del settings["optim"]["average_decay"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(value=5.0), {})
    checkpoints.wait()
    leaves = retention.about(tmp_path / "checkpoints" / "1")["leaves"]
    assert {path.partition("/")[0] for path in leaves} == {"step", "params", "stats", "opt_state", "loss_scale"}
    assert_same_bits(checkpoints.restore(1, make_state())[0], make_state(value=5.0))
    checkpoints.close()
    cfg, *found = checkpoint.load_model(tmp_path)
    assert cfg == CFG
    assert_same_bits(tuple(found), make_state(value=5.0).model)


def test_checkpoints_may_be_in_a_folder_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (str(tmp_path / "far" / "away"), "near"):
        cfg = attrs.evolve(CFG, checkpointing=CheckpointingConfig(folder=folder))
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict(cfg)))
        checkpoints = Checkpoints(tmp_path, folder=folder)
        checkpoints.save(1, make_state(value=1.0), {})
        checkpoints.close()
        assert (tmp_path / folder / "1" / integrity.FILE).exists()
        assert_same_bits(checkpoint.load_model(tmp_path)[1], make_state(value=1.0).params)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\xff", b"[]", b"7", b'{"model": 3}', b'{"model": {"colour": 1}}']
)
def test_a_folder_without_a_readable_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json"):
        checkpoint.load_config(tmp_path)


@pytest.mark.long
def test_saving_holds_a_step_up_no_longer_than_a_copy_and_restoring_takes_few_readings(tmp_path, capsys):
    state = steps.init_state(Config(), optim.adamw(0.1), key=0)
    state = tree.map(
        lambda leaf: torch.rand(leaf.shape) if leaf.numel() > 1 else leaf, state
    )  # moments of zero are small
    checkpoints = Checkpoints(tmp_path)

    def seconds(fn):
        start = time.perf_counter()
        fn()
        return time.perf_counter() - start

    copies, saves, reads, restores = [], [], [], []
    for iteration in range(6):
        copies.append(seconds(lambda: tree.map(torch.clone, state)))
        saves.append(seconds(lambda iteration=iteration: checkpoints.save(iteration, state, {})))
        assert checkpoints.wait()
    paths = files(tmp_path / "checkpoints" / "5")
    for _ in range(5):
        reads.append(seconds(lambda: [path.read_bytes() for path in paths]))
        restores.append(seconds(lambda: checkpoints.restore(5, state)))
    checkpoints.close()
    copy, save = statistics.median(copies), statistics.median(saves[1:])
    read, restore = statistics.median(reads), statistics.median(restores)
    with capsys.disabled():
        size = sum(path.stat().st_size for path in paths) / 1e9
        print(f"\n{size:.2f} GB: copy {copy:.3f} s, save {save:.3f} s; read {read:.3f} s, restore {restore:.3f} s")
    assert size > 1
    assert save < 1.5 * copy
    assert restore < 8 * read


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("section", ["params", "stats"])
def test_weights_that_are_not_finite_are_refused_and_named(tmp_path, section, value):
    state = make_state()
    branch = getattr(state, section)["output"]["norm"]
    next(iter(branch.values()))[1:3] = value
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    written = Checkpoints(tmp_path, cfg=CFG)
    written.save(1, state, {}, score=1.0)
    assert written.close()
    with pytest.raises(
        InputError, match=r"checkpoints/1: NaN or infinite weights in \S*output/norm/\w+ \(2 of 4 values\)"
    ):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("stored", ['{"epoch": 3, "best_score": Infinity}', '{"epoch": 3, "best_score": null}'])
def test_a_progress_without_a_best_score_is_read_as_it_is_and_as_it_was_written(tmp_path, stored):
    written = Checkpoints(tmp_path, cfg=CFG)
    written.save(1, make_state(), {}, score=float("inf"))
    written.wait()
    path = tmp_path / "checkpoints/1"
    assert "Infinity" not in (path / "run.json").read_text()
    (path / "position.json").write_text(stored)
    (path / "digests.json").unlink()
    integrity.write(written._folder / "1")
    progress = TrainProgress(**written.restore(1, make_state())[1])
    assert (progress.epoch, progress.best_score) == (3, float("inf"))
    assert written.find("best") == 1
    written.close()


def test_a_partitions_state_with_dots_in_its_names_is_read_as_older_checkpoints_have_it(checkpoints):
    state = make_state(tx=optim.muon(0.1))

    def dotted(part):
        return {name.replace("/", "."): leaf + 1 for name, leaf in tree.flatten_with_names(part).items()}

    trace, adam = state.opt_state[0][0][0], state.opt_state[0][1]
    older = (trace._replace(trace=dotted(trace.trace)), state.opt_state[0][0][1])
    older = (older, adam._replace(mu=dotted(adam.mu), nu=dotted(adam.nu)))
    checkpoints.save(1, state._replace(opt_state=(older, *state.opt_state[1:])), {})
    assert "opt_state/0/0/0/trace/conv.layers.0.weight" in checkpoints_leaves(checkpoints)
    restored, _ = checkpoints.restore(1, state)
    for name, leaf in tree.flatten_with_names(restored.opt_state).items():
        before = tree.flatten_with_names(state.opt_state)[name]
        assert torch.equal(leaf, before + ("trace" in name or "/mu/" in name or "/nu/" in name)), name
    assert_same_bits(restored.params, state.params)


def checkpoints_leaves(checkpoints):
    checkpoints.wait()
    return retention.about(checkpoints._folder / "1")["leaves"]
