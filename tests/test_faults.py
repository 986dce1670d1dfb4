"""What is displayed or logged decides nothing: a training goes on without it, and ends with the bits of another one."""

import json
import os
import subprocess
import sys

import pytest
from commands import ROOT, commands, variables
from killing import bits, differences, last_checkpoint, timeless

TONES = (
    "--device=cpu",
    "--data.dataset=tones",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--spect.num_mels=16",
    "--model.hidden_size=8",
    "--model.hidden_layers=1",
    "--optim.schedule=constant",
    "--optim.learning_rate=0.01",
    "--apex.opt_level=O0",
    "--training.log_every=1",
    "--training.epochs=4",
    "--training.evaluate_test",
)
CONTINUE = "--checkpointing.load_auto_checkpoint"
ERRORS = ("EPIPE", "EIO", "ENOSPC", "EROFS", "ESTALE")


def arguments(data_path, run_dir, *flags):
    return (*TONES, f"--data_path={data_path}", f"--run_dir={run_dir}", *flags)


@pytest.fixture(scope="module")
def undisturbed(launch, tone_corpus, tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = launch("train", *arguments(tone_corpus, "run"), folder=folder)
    assert ended.status == 0, ended.err
    return folder / "run"


@pytest.fixture
def halfway(launch, tone_corpus, tmp_path):
    """A run of which half is done."""
    ended = launch("train", *arguments(tone_corpus, "run", "--training.max_steps=6"), folder=tmp_path)
    assert ended.status == 0, ended.err
    (tmp_path / "run" / "results.json").unlink()
    return tmp_path / "run"


def go_on(launch, data_path, run_dir, *flags):
    ended = launch("train", *arguments(data_path, run_dir, CONTINUE, *flags), folder=run_dir.parent)
    assert "Traceback" not in ended.err, ended.err
    return ended


def assert_same_end(one, other):
    """Both runs have a last checkpoint of the same bits."""
    (leaves, position), (other_leaves, other_position) = last_checkpoint(one), last_checkpoint(other)
    assert timeless(position) == timeless(other_position)
    for path, leaf in leaves.items():
        assert bits(leaf) == bits(other_leaves[path]), path


@pytest.mark.parametrize(
    ("lines", "ranks"),
    [(0, 1), (1, 2), pytest.param(0, 2, marks=pytest.mark.long), pytest.param(1, 1, marks=pytest.mark.long)],
)
def test_a_training_whose_reader_leaves_goes_on_to_its_end(tone_corpus, tmp_path, undisturbed, lines, ranks):
    reading, writing = os.pipe()
    flags = arguments(tone_corpus, tmp_path / "run", f"--nproc_per_node={ranks}", "--data.batch_size=2")
    flags = flags if ranks == 2 else arguments(tone_corpus, tmp_path / "run")
    with os.fdopen(writing, "wb") as output, (tmp_path / "err").open("wb") as err:
        program = commands().start("launch.train", *flags, folder=tmp_path, out=output, err=err)
    with os.fdopen(reading, "rb") as source:
        for _ in range(lines):
            source.readline()
    assert program.wait(120) == 0, (tmp_path / "err").read_text()
    assert "standard output cannot be written: [Errno 32] Broken pipe" in (tmp_path / "run" / "log.txt").read_text()
    assert "Traceback" not in (tmp_path / "err").read_text()
    if ranks == 1:
        assert differences(undisturbed, tmp_path / "run") == []


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_training_whose_output_and_errors_go_to_a_full_disk_ends_well(tone_corpus, tmp_path, ranks):
    flags = arguments(tone_corpus, tmp_path / "run", f"--nproc_per_node={ranks}")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        program = commands().start("launch.train", *flags, folder=tmp_path, out=full, err=full)
    assert program.wait(120) == 0
    assert "No space left on device" in (tmp_path / "run" / "log.txt").read_text()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["epochs"] == 4


def test_a_training_without_any_standard_stream_ends_well(tone_corpus, tmp_path, undisturbed):
    command = [sys.executable, "-m", "launch.train", *arguments(tone_corpus, tmp_path / "run")]
    shell = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *command]
    assert subprocess.run(shell, cwd=ROOT, env=variables(), check=False).returncode == 0
    assert differences(undisturbed, tmp_path / "run") == []


def test_head_of_a_training_is_its_first_line_and_the_training_ends_with_status_0(tone_corpus, tmp_path, undisturbed):
    command = [sys.executable, "-m", "launch.train", *arguments(tone_corpus, tmp_path / "run")]
    shell = ["bash", "-c", '"$@" | head -n 1; exit ${PIPESTATUS[0]}', "bash", *command]
    ended = subprocess.run(shell, cwd=ROOT, env=variables(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert differences(undisturbed, tmp_path / "run") == []


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_training_whose_log_is_on_a_full_disk_goes_on_and_says_so(launch, tone_corpus, tmp_path, undisturbed, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to("/dev/full")
    ended = launch("train", *arguments(tone_corpus, "run"), folder=tmp_path)
    assert ended.status == 0, ended.err
    assert ended.out.count(f"run/{name} cannot be written: No space left on device") == 1
    assert_same_end(undisturbed, tmp_path / "run")


def test_a_training_without_tensorboards_folder_goes_on_and_says_so(launch, tone_corpus, tmp_path, undisturbed):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("")
    ended = launch("train", *arguments(tone_corpus, "run"), folder=tmp_path)
    assert ended.status == 0, ended.err
    assert "TensorBoard gets no more scalars" in ended.out
    assert "Traceback" not in ended.err
    assert differences(undisturbed, tmp_path / "run") == []


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 0x80]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: flipped(content, 30),
        lambda content: content.replace(b'"iteration": 2', b'"iteration": "2"', 1),
        lambda content: content.replace(b"\n", b"", 1),
        lambda content: b"\0" * 100 + content,
        lambda content: b"[" * 100_000 + b"\n" + content,
    ],
)
def test_metrics_that_cannot_be_read_are_set_aside_and_the_run_goes_on(
    launch, tone_corpus, halfway, undisturbed, damage
):
    path = halfway / "metrics.jsonl"
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    ended = go_on(launch, tone_corpus, halfway)
    assert ended.status == 0, ended.err
    assert "lines cannot be read" in ended.out
    assert "the damaged file is kept as metrics.jsonl.damaged" in ended.out
    assert (halfway / "metrics.jsonl.damaged").read_bytes() == damaged
    assert_same_end(undisturbed, halfway)


@pytest.mark.parametrize("content", [b"", None])
def test_a_run_whose_metrics_are_gone_goes_on_and_is_still_a_run(launch, tone_corpus, halfway, undisturbed, content):
    (halfway / "metrics.jsonl").unlink()
    if content is not None:
        (halfway / "metrics.jsonl").write_bytes(content)
    refused = launch("train", *arguments(tone_corpus, halfway), folder=halfway.parent)
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "already holds a run" in refused.err
    assert go_on(launch, tone_corpus, halfway).status == 0
    assert_same_end(undisturbed, halfway)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: None,
        lambda _: b"",
        lambda content: content[:100],
        lambda content: flipped(content, 50),
        lambda _: b"3",
    ],
)
def test_settings_that_are_lost_or_damaged_come_back_from_a_checkpoint(
    launch, tone_corpus, halfway, undisturbed, damage
):
    path = halfway / "config.json"
    before = json.loads(path.read_text())
    damaged = damage(path.read_bytes())
    path.unlink() if damaged is None else path.write_bytes(damaged)
    other = launch("train", *arguments(tone_corpus, halfway, CONTINUE, "--model.hidden_size=9"), folder=halfway.parent)
    assert "holds a run of another model (model.hidden_size was " in other.err
    ended = go_on(launch, tone_corpus, halfway)
    assert ended.status == 0, ended.err
    assert "config.json is written again, with the settings in the newest checkpoint" in ended.out
    assert (halfway / "config.json.damaged").exists() == (damaged is not None)
    assert json.loads(path.read_text())["model"] == before["model"]
    assert_same_end(undisturbed, halfway)


def test_a_name_of_a_job_that_cannot_be_read_is_set_aside(launch, tone_corpus, halfway, undisturbed):
    (halfway / "job.txt").write_bytes(b"nigh\xf4")
    ended = go_on(launch, tone_corpus, halfway, "--nproc_per_node=2")
    assert ended.status == 0, ended.err
    assert "job.txt: is not text; the damaged file is kept as job.txt.damaged" in ended.out


def test_a_full_disk_for_results_ends_in_one_line_after_the_last_checkpoint(launch, tone_corpus, tmp_path, undisturbed):
    (tmp_path / "run" / "results.json").mkdir(parents=True)
    ended = launch("train", *arguments(tone_corpus, "run"), folder=tmp_path)
    assert ended.status == 1
    assert (ended.err.count("\n"), "Traceback" in ended.err) == (1, False)
    assert "results.json cannot be written" in ended.err
    assert_same_end(undisturbed, tmp_path / "run")
