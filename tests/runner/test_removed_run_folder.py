"""The folders of a run: removed or moved away in the middle, shared with another run, or in a bucket out of reach."""

import importlib.util
import itertools
import json
import shutil
import sys
import time

import pytest
from commands import ROOT, commands
from killing import metrics, timeless
from test_faults import CONTINUE, TONES, assert_same_end
from waiting import wait_for

from ds2f.checkpoint import storage
from ds2f.errors import InputError

FILES = {"config.json", "flags.txt", "data.json", "metrics.jsonl", "log.txt", "tensorboard", "checkpoints"}
EPOCHS = "--training.epochs=12"


def arguments(data_path, run_dir, *flags):
    return (*TONES, EPOCHS, f"--data_path={data_path}", f"--run_dir={run_dir}", *flags)


def started(folder, data_path, name, *flags, run_dir=None):
    out = (folder / f"{name}.txt").open("wb")
    given = arguments(data_path, run_dir or folder / name, *flags)
    return commands().start("launch.train", *given, folder=ROOT, out=out, err=out)


@pytest.fixture(scope="module", params=[1, 2])
def undisturbed(tone_corpus, tmp_path_factory, request):
    """A run that nothing disturbs, and the flags of its ranks."""
    folder, flags = tmp_path_factory.mktemp("undisturbed"), (f"--nproc_per_node={request.param}",)
    assert started(folder, tone_corpus, "run", *flags).wait(120) == 0, (folder / "run.txt").read_text()
    return folder / "run", flags


def remove(run_dir):
    while run_dir.exists():  # the run may be writing into it
        shutil.rmtree(run_dir, ignore_errors=True)


def move(run_dir):
    run_dir.rename(run_dir.with_name("moved"))


def remove_what_is_small(run_dir):
    for name in ("config.json", "flags.txt", "metrics.jsonl", "log.txt"):
        (run_dir / name).unlink()


@pytest.mark.parametrize("how", [remove, move, remove_what_is_small])
def test_a_run_whose_folder_is_removed_makes_it_whole_again(tone_corpus, tmp_path, undisturbed, how):
    expected, flags = undisturbed
    run_dir = tmp_path / "run"
    program = started(tmp_path, tone_corpus, "run", *flags)
    assert wait_for(lambda: len(metrics(run_dir)) > 10, 60), (tmp_path / "run.txt").read_text()
    how(run_dir)
    assert program.wait(120) == 0, (tmp_path / "run.txt").read_text()
    said = (tmp_path / "run.txt").read_text()
    assert "Traceback" not in said
    assert said.count("was removed, whole or in part; written again: ") >= 1
    assert {path.name for path in run_dir.iterdir()} >= FILES | {"results.json"}
    assert not list(run_dir.glob(".*.tmp")) + list(run_dir.glob("lease.json"))
    assert_same_end(expected, run_dir)
    for line, other in itertools.zip_longest(metrics(expected), metrics(run_dir), fillvalue={}):
        assert timeless(line) == timeless(other)
    log = (run_dir / "log.txt").read_text()
    assert all(f"epoch {epoch}/12" in log for epoch in range(1, 13))
    assert json.loads((run_dir / "config.json").read_text())["training"]["epochs"] == 12
    assert (run_dir / "data.json").read_text() == (expected / "data.json").read_text()
    assert json.loads((run_dir / "results.json").read_text())["epochs"] == 12


def test_a_removed_run_can_be_continued_from_what_it_has_written_again(launch, tone_corpus, tmp_path):
    run_dir = tmp_path / "run"
    program = started(tmp_path, tone_corpus, "run", "--training.epochs=4000")
    assert wait_for(lambda: len(metrics(run_dir)) > 10, 60)
    remove(run_dir)
    assert wait_for(lambda: (run_dir / "config.json").exists() and len(metrics(run_dir)) > 20, 60)
    assert wait_for((run_dir / "lease.json").exists, 20)
    program.send_signal(15)
    assert program.wait(60) == 143
    steps = f"--training.max_steps={len(metrics(run_dir)) + 3}"
    ended = launch("train", *arguments(tone_corpus, "run", "--training.epochs=4000", steps, CONTINUE), folder=tmp_path)
    assert ended.status == 0, ended.err
    assert "going on from checkpoint" in ended.out


@pytest.mark.parametrize("apart", [0.0, 1.0])
@pytest.mark.parametrize("name", ["together", "./x/../together"])
def test_of_two_runs_that_share_a_folder_of_checkpoints_the_second_is_refused_in_one_line(
    tone_corpus, tmp_path, apart, name
):
    first = started(tmp_path, tone_corpus, "one", f"--checkpointing.folder={tmp_path / 'together'}")
    time.sleep(apart)
    (tmp_path / "x").mkdir()
    flags = (f"--checkpointing.folder={tmp_path}/{name}", "--checkpointing.load_auto_checkpoint")
    second = started(tmp_path, tone_corpus, "other", *flags)
    statuses = {"one": first.wait(120), "other": second.wait(120)}
    said = {name: (tmp_path / f"{name}.txt").read_text() for name in statuses}
    assert sorted(statuses.values()) == [0, 1], said
    (loser,) = (name for name, status in statuses.items() if status)
    assert said[loser].count("\n") == 1, said[loser]
    assert "together is in use by process" in said[loser]
    assert "give another --checkpointing.folder" in said[loser]
    assert not (tmp_path / loser).exists()
    assert not (tmp_path / "together" / "lease.json").exists()


@pytest.mark.parametrize(
    ("url", "package"),
    [
        ("gs://bucket/name", "gcsfs"),
        ("s3://bucket/name", "s3fs"),
        ("az://container/name", "adlfs"),
        ("hdfs://host/name", "give a path, or a bucket's URL with one of gs://, s3://"),
        ("file:///tmp/name", "give a path, or a bucket's URL with one of gs://, s3://"),
        ("GS://bucket/name", "give a path, or a bucket's URL with one of gs://, s3://"),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_bucket_out_of_reach_is_named_in_one_line_before_anything_is_written(
    launch, tone_corpus, tmp_path, monkeypatch, url, package, ranks
):
    if package.isalpha():
        pytest.importorskip("fsspec")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(InputError, match=package):
                storage.open_folder(url)
        if importlib.util.find_spec(package):
            pytest.skip(f"{package} is installed")
    flags = (f"--checkpointing.folder={url}", f"--nproc_per_node={ranks}")
    ended = launch("train", *arguments(tone_corpus, "run", *flags), folder=tmp_path)
    assert (ended.status, ended.err.count("\n")) == (1, 1), ended.err
    assert f"--checkpointing.folder={url}" in ended.err
    assert package in ended.err
    assert not (tmp_path / "run").exists()
