"""A run's folder: any path will do, and nothing in it changes before the command is known to be good."""

import shutil

import pytest
from conftest import write_tones
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TONES = (
    "--device=cpu",
    "--data.dataset=tones",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--spect.num_mels=16",
    "--model.hidden_size=4",
    "--model.hidden_layers=1",
    "--apex.opt_level=O0",
    "--optim.schedule=constant",
    "--optim.learning_rate=0.01",
    "--training.epochs=1",
)
CONTINUE = ("--checkpointing.load_auto_checkpoint", "--training.epochs=2")
PRINTABLE = "".join(each for each in map(chr, range(32, 127)) if each != "/")


def content(folder):
    """Every file and folder in a folder, with its bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def trained(launch, tone_corpus, tmp_path_factory):
    """A folder with a run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    ended = launch("train", *TONES, f"--data_path={tone_corpus}", "--run_dir=run", folder=folder)
    assert ended.status == 0, ended.err
    return folder / "run"


@pytest.mark.parametrize("name", [PRINTABLE, "p [v2]/x[lr]", "a\\b"])
def test_a_run_on_any_path_is_trained_continued_read_and_shown(launch, tone_corpus, tmp_path, name):
    flags = (*TONES, f"--data_path={tone_corpus}", f"--run_dir={name}")
    assert launch("train", *flags, folder=tmp_path).status == 0
    ended = launch("train", *flags, *CONTINUE, folder=tmp_path)
    assert ended.status == 0
    assert ended.err.startswith(f"wrote {name}/results.json\nwrote {name}/report.html\nNext:\n")
    assert name.rpartition("/")[2] in "".join(ended.out.split("\n"))
    assert "going on from checkpoint 3" in (tmp_path / name / "log.txt").read_text()
    events = EventAccumulator(str(tmp_path / name / "tensorboard")).Reload()
    assert len(events.Scalars("epoch/train_loss")) == 2
    for module, *more in (
        ("evaluate", f"--run_dir={name}", f"--data_path={tone_corpus}", "--save_output=out.tsv"),
        ("transcribe", f"--run_dir={name}", tone_corpus / "test0.wav"),
        ("report", f"--errors={name}", f"--data_path={tone_corpus}"),
    ):
        ended = launch(module, *more, folder=tmp_path)
        assert ended.status == 0, ended.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--optim.name=sgd"], "of another model or optimizer"),
        (["--optim.average_decay=0.9"], "of another model or optimizer"),
        (["--model.hidden_size=5"], "another model"),
        (["--training.seed=5"], "training.seed"),
        (["--data.global_batch_size=2"], "global batch is 4"),
        (["--checkpointing.folder=/dev/null/x"], "checkpointing.folder"),
    ],
)
def test_a_refused_continuation_changes_nothing(launch, tone_corpus, tmp_path, trained, flags, expected):
    shutil.copytree(trained, tmp_path / "run")
    before = content(tmp_path / "run")
    ended = launch("train", *TONES, f"--data_path={tone_corpus}", "--run_dir=run", *CONTINUE, *flags, folder=tmp_path)
    assert ended.status == 1
    assert expected in ended.err
    assert len(ended.err.splitlines()) < 4
    assert content(tmp_path / "run") == before


def test_a_continuation_with_other_data_changes_nothing(launch, tone_corpus, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(tone_corpus, tmp_path / "data")
    write_tones(tmp_path / "data", "train0", "CBACB", 9)
    before = content(tmp_path / "run")
    ended = launch("train", *TONES, "--data_path=data", "--run_dir=run", *CONTINUE, folder=tmp_path)
    assert ended.status == 1
    assert "begun with other data" in ended.err
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.ctc=warpctc"], "warpctc_pytorch"),
        (["--checkpointing.continue_from=nowhere"], "nowhere"),
        (["--checkpointing.continue_from=RUN", "--model.hidden_size=8"], "hidden_size"),
        (["--checkpointing.continue_from=RUN", "--spect.num_mels=24"], "--spect.num_mels=16"),
        (["--checkpointing.continue_from=RUN", "--data.labels_path=labels.json"], "other labels"),
        (["--checkpointing.folder=/proc/no"], "--checkpointing.folder=/proc/no cannot be written"),
    ],
)
def test_a_mistake_that_only_the_model_shows_leaves_no_folder(launch, tone_corpus, tmp_path, trained, flags, expected):
    (tmp_path / "labels.json").write_text('["_", "A", "B", "C", "D"]')
    flags = [flag.replace("RUN", str(trained)) for flag in flags]
    ended = launch("train", *TONES, f"--data_path={tone_corpus}", "--run_dir=new", *flags, folder=tmp_path)
    assert ended.status == 1
    assert expected in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "new").exists()


def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("folder", ["kept", "../kept [v2]", "run/inside"])
def test_a_checkpoints_folder_is_found_from_anywhere(launch, tone_corpus, tmp_path, folder):
    work, here = elsewhere(tmp_path), tmp_path / "work"
    here.mkdir()
    flags = (*TONES, f"--data_path={tone_corpus}", "--run_dir=run", f"--checkpointing.folder={folder}")
    assert launch("train", *flags, folder=here).status == 0
    assert list((here / folder).iterdir())
    run = here / "run"
    for module, *more in (
        ("evaluate", f"--run_dir={run}", f"--data_path={tone_corpus}"),
        ("train", f"--flagfile={run}/flags.txt", f"--run_dir={run}", *CONTINUE),
        ("train", *TONES, f"--data_path={tone_corpus}", "--run_dir=new", f"--checkpointing.continue_from={run}"),
    ):
        ended = launch(module, *more, folder=work)
        assert ended.status == 0, ended.err
    ended = launch("train", *flags, *CONTINUE, "--training.epochs=3", folder=here)  # the same relative path again
    assert ended.status == 0, ended.err
    shutil.rmtree(here / folder)
    ended = launch("evaluate", f"--run_dir={run}", f"--data_path={tone_corpus}", folder=work)
    assert ended.status == 1
    assert f"Its checkpoints belong in {(here / folder).resolve()}" in ended.err


def test_a_run_knows_its_labels_when_their_file_has_gone(launch, tone_corpus, tmp_path):
    work = elsewhere(tmp_path)
    labels = tmp_path / "labels.json"
    labels.write_text('["_", "A", "B", "C"]')
    flags = (*TONES, f"--data_path={tone_corpus}", "--data.labels_path=labels.json")
    assert launch("train", *flags, "--run_dir=run", folder=tmp_path).status == 0
    labels.rename(tmp_path / "moved.json")
    run = tmp_path / "run"
    for *more, folder in (
        (*flags, "--run_dir=run", *CONTINUE, tmp_path),
        (f"--flagfile={run}/flags.txt", f"--run_dir={run}", *CONTINUE, "--training.epochs=3", work),
        (*flags, "--run_dir=new", "--checkpointing.continue_from=run", tmp_path),
    ):
        ended = launch("train", *more, folder=folder)
        assert ended.status == 0, ended.err
    assert launch("transcribe", "--run_dir=new", tone_corpus / "test0.wav", folder=tmp_path).status == 0
    for path, expected in (("labels.json", "No such file"), ("moved.json", "model.labels differ")):
        (tmp_path / "moved.json").write_text('["_", "A", "B", "C", "D"]')
        run_dir = "--run_dir=fresh" if path == "labels.json" else "--run_dir=run"
        ended = launch("train", *flags, f"--data.labels_path={path}", run_dir, *CONTINUE, folder=tmp_path)
        assert ended.status == 1
        assert expected in ended.err
    assert not (tmp_path / "fresh").exists()
