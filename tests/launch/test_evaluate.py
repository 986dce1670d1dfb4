"""launch.evaluate on any manifest, its outputs, and launch.calibrate, whose file it uses."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import arpa
import numpy as np
import pytest
import soundfile
import torch

from ds2f.data.manifests import Utterance
from ds2f.inference import saved_logits
from ds2f.metrics import bootstrap, count_errors
from launch import decoding

SCLITE = Path("/usr/lib/sctk/bin/sclite")  # of Debian's package sctk
TRAINING = (
    *("--device=cpu", "--data.dataset=tones", "--data.batch_size=4", "--data.num_workers=0", "--run_dir=run"),
    *("--model.hidden_size=16", "--model.hidden_layers=1", "--model.time_stride=4", "--model.frequency_stride=16"),
    *("--optim.name=adamw", "--optim.schedule=constant", "--optim.learning_rate=0.01", "--optim.weight_decay=0"),
    *("--apex.opt_level=O0", "--training.epochs=40", "--novisualization.tensorboard"),
)


@pytest.fixture(scope="module")
def workplace(launch, tone_corpus, tmp_path_factory):
    """A folder with a corpus and a run that has learned something of it."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copytree(tone_corpus, folder / "data")
    ended = launch("train", *TRAINING, "--data_path=data", folder=folder)
    assert ended.status == 0, ended.err
    return folder


def evaluate(launch, folder, *flags):
    ended = launch("evaluate", "--run_dir=run", *flags, folder=folder)
    assert ended.status == 0, ended.err
    return ended.out


def test_a_manifest_of_any_form_gives_the_errors_of_the_split_with_its_recordings(launch, workplace):
    rows = [line.split(",") for line in (workplace / "data/tones_val_manifest.csv").read_text().split()]
    texts = {audio: (workplace / "data" / text).read_text().strip() for audio, text in rows}
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    for audio, text in rows:
        shutil.copy(workplace / "data" / audio, elsewhere)
        shutil.copy(workplace / "data" / text, elsewhere)
    lines = [{"audio_filepath": audio, "text": text} for audio, text in texts.items()]
    (elsewhere / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (elsewhere / "mine.tsv").write_text("path\tsentence\n" + "".join(f"{a}\t{t}\n" for a, t in texts.items()))
    evaluate(launch, workplace, "--split=val", "--save_results=split.json")
    split = json.loads((workplace / "split.json").read_text())
    for manifest in ("elsewhere/mine.jsonl", "elsewhere/mine.tsv", "elsewhere"):
        out = evaluate(launch, workplace, f"--manifest={manifest}", "--save_results=other.json")
        other = json.loads((workplace / "other.json").read_text())
        assert other["manifest"] == split["val"]
        assert other["intervals_95"]["manifest"] == split["intervals_95"]["val"]
        assert manifest in out
    out = evaluate(launch, workplace, "--manifest=data/tones_train_manifest.csv")
    assert "was trained on the manifest set" in out


def test_utterances_are_written_with_errors_alignment_and_confidences_on_a_line_each(launch, workplace):
    out = evaluate(launch, workplace, "--split=train", "--save_output=out.jsonl", "--save_results=out.json")
    rows = [json.loads(line) for line in (workplace / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert any(row["transcript"] for row in rows)
    for row in rows:
        counts = count_errors(row["reference"], row["transcript"])
        assert counts._asdict().items() <= row.items()
        heard = [pair for pair in row["alignment"] if pair["heard"] is not None]
        assert [pair["heard"] for pair in heard] == row["transcript"].split()
        assert [pair["said"] for pair in row["alignment"] if pair["said"]] == row["reference"].split()
        assert all(0 < pair["confidence"] < 1 and pair["start"] <= pair["end"] for pair in heard)
    interval = bootstrap([count_errors(row["reference"], row["transcript"]) for row in rows])
    stored = json.loads((workplace / "out.json").read_text())["intervals_95"]["train"]
    assert stored == {"wer": list(interval.wer), "cer": list(interval.cer)}
    assert f"({interval.cer[0]:.2f} to {interval.cer[1]:.2f})" in out
    evaluate(launch, workplace, "--split=train", "--save_output=list.json")
    assert json.loads((workplace / "list.json").read_text()) == rows


def test_nists_scorer_counts_the_same_errors(launch, workplace):
    evaluate(launch, workplace, "--split=train", "--save_output=out.trn", "--save_results=out.json")
    lines = [(workplace / f"out.{kind}.trn").read_text().splitlines() for kind in ("ref", "hyp")]
    names = [[re.search(r"\((\w+)\)$", line)[1] for line in each] for each in lines]
    assert names[0] == names[1]
    assert len(set(names[0])) == 10
    if not SCLITE.exists():
        pytest.skip("sclite is not installed: apt-get install sctk")
    command = [SCLITE, "-r", "out.ref.trn", "trn", "-h", "out.hyp.trn", "trn", "-i", "rm", "-s", "-o", "rsum", "stdout"]
    table = subprocess.run(command, cwd=workplace, check=True, capture_output=True, text=True).stdout
    sums = re.search(r"\| Sum\s*\|(.*)\|", table)[1].replace("|", " ").split()
    found = json.loads((workplace / "out.json").read_text())["train"]
    assert [int(sums[1]), int(sums[-2])] == [found["words"], found["word_errors"]]


def test_saved_logits_take_the_place_of_a_run_for_tuning(launch, workplace):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    ngrams = {("<unk>",): (-5, 0), ("<s>",): (-9, 0), ("</s>",): (-0.2, 0), ("CAB",): (-0.4, 0), ("ABA",): (-2, 0)}
    arpa.write(workplace / "lm.arpa", ngrams | {("CAB", "CAB"): (-0.1, 0)})
    evaluate(launch, workplace, "--split=val", "--save_logits=val.npz")
    grid = ("--lm.path=lm.arpa", "--weights=0,1", "--word_scores=0,2", "--refinements=1")
    tuned = {}
    for name, source in {"run": "--run_dir=run", "logits": "--logits=val.npz"}.items():
        ended = launch("tune_lm", source, *grid, f"--output={name}.json", folder=workplace)
        assert ended.status == 0, ended.err
        tuned[name] = json.loads((workplace / f"{name}.json").read_text())
    same = tuned["run"].keys() & tuned["logits"].keys() - {"run", "run_dir"}
    assert {name: tuned["run"][name] for name in same} == {name: tuned["logits"][name] for name in same}
    assert {"trials", "greedy", "beam", "flags", "which"} <= same
    for split in ("test", "train"):
        evaluate(launch, workplace, f"--split={split}", "--save_logits=other.npz")
        ended = launch("tune_lm", "--logits=other.npz", *grid, folder=workplace)
        assert ended.status == 1
        assert "which cannot choose weights" in ended.err
    ended = launch("tune_lm", "--logits=val.npz", "--run_dir=run", *grid, folder=workplace)
    assert (ended.status, "leave out --run_dir" in ended.err) == (1, True)


def test_a_calibration_is_written_and_used(launch, workplace):
    shutil.copytree(workplace / "run", workplace / "calibrated")
    ended = launch("calibrate", "--run_dir=calibrated", folder=workplace)
    assert ended.status == 0, ended.err
    assert re.search(r"\d+ of \d+ words right; normalised cross entropy (\S+ before, \S+ after|not defined)", ended.out)
    path = workplace / "calibrated/calibration.json"
    (found,) = json.loads(path.read_text())["calibrations"]
    assert found["words"] >= 1
    recording = "data/train0.wav"

    def write(**numbers):
        path.write_text(json.dumps({"calibrations": [found | numbers]}))

    write(slope=1, intercept=3, delay=0.08)

    def words(run):
        ended = launch("transcribe", f"--run_dir={run}", "--word_times", recording, folder=workplace)
        assert (ended.status, ended.err) == (0, "")
        rows = [line.split("\t") for line in ended.out.splitlines()]
        return [(float(start), float(sure)) for _, start, _, _, sure in rows]

    plain, calibrated = words("run"), words("calibrated")
    assert len(plain) == len(calibrated) > 0
    for (start, sure), (moved, surer) in zip(plain, calibrated, strict=True):
        assert moved == pytest.approx(max(start - 0.08, 0), abs=0.011)
        assert surer > sure
    write(weights="of another model")
    for told, *command in (
        (1, "transcribe", recording, "--word_times"),
        (1, "transcribe", recording, "--format=srt"),
        (1, "evaluate", "--save_output=words.jsonl"),
        (0, "transcribe", recording),
        (0, "transcribe", recording, "--format=trn"),
        (0, "evaluate"),
        (0, "evaluate", "--save_output=words.trn"),
    ):
        ended = launch(command[0], "--run_dir=calibrated", *command[1:], folder=workplace)
        assert (ended.status, ended.err.count("measured with another model")) == (0, told), command
    write(slope=None)
    for command in (("transcribe", recording), ("evaluate",)):
        ended = launch(command[0], "--run_dir=calibrated", *command[1:], folder=workplace)
        assert (ended.status, "calibration.json: not a calibration" in ended.err) == (1, True)


def test_a_run_that_was_trained_on_its_validation_set_is_not_calibrated_on_it(launch, workplace):
    ended = launch("calibrate", "--run_dir=run", "--data.val_manifest=data/tones_train_manifest.csv", folder=workplace)
    assert ended.status == 1
    assert "was trained on its validation set" in ended.err
    assert not (workplace / "run/calibration.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--manifest=nowhere.csv"], "--manifest=nowhere.csv: no such file or folder; check the path"),
        (["--manifest=no/folder"], "--manifest=no/folder: no such file or folder; check the path"),
        (["--manifest=data", "--split=val"], "leave out --split"),
        (["--manifest=data", "--data.test_manifest=data"], "leave out --split and --data.test_manifest"),
        (["--format=trn"], "--save_output=FILE"),
        (["--save_logits=no/where.npz"], "folder that exists"),
        (["--lm.workers=2"], "--lm.workers needs"),
        (["--lm.decoder=beam", "--lm.beam_size_token=-2"], "beam_size_token"),
    ],
)
def test_mistakes_end_in_one_message(launch, workplace, flags, message):
    ended = launch("evaluate", "--run_dir=run", *flags, folder=workplace)
    assert ended.status == 1
    assert message in ended.err
    assert "Traceback" not in ended.err


@pytest.fixture(scope="module")
def long_recordings(workplace):
    """Manifests of the test set, of long recordings that its utterances are joined to, and of both; by name."""
    data = workplace / "data"
    rows = [line.split(",") for line in (data / "tones_test_manifest.csv").read_text().split()]
    sounds = [soundfile.read(data / audio, dtype="int16")[0] for audio, _ in rows]
    texts = [(data / text).read_text().strip() for _, text in rows]
    pause = np.random.default_rng(0).normal(0, 30, 12_000).astype("int16")
    long = []
    for name, repetitions in (("half_a_minute", 25), ("over_a_minute", 70)):
        samples = [part for index in range(repetitions) for part in (sounds[index % 3], pause)]
        soundfile.write(data / f"{name}.wav", np.concatenate(samples), 16000)
        (data / f"{name}.txt").write_text(" ".join(texts[index % 3] for index in range(repetitions)))
        assert soundfile.info(data / f"{name}.wav").duration > 25
        long.append([f"{name}.wav", f"{name}.txt"])
    for name, chosen in (("short", rows), ("long", long), ("both", [long[0], *rows, long[1]])):
        (data / f"{name}.csv").write_text("".join(f"{audio},{text}\n" for audio, text in chosen))
    return [f"data/{audio}" for audio, _ in long]


def test_long_recordings_have_the_text_of_transcribe_and_leave_the_short_as_they_were(
    launch, workplace, long_recordings
):
    found = {}
    for name in ("short", "long", "both"):
        out = evaluate(
            launch, workplace, f"--manifest=data/{name}.csv", f"--save_output={name}.jsonl", "--save_results=r"
        )
        rows = [json.loads(line) for line in (workplace / f"{name}.jsonl").read_text().splitlines()]
        found[name] = {row["audio"]: row for row in rows}
        results = json.loads((workplace / "r").read_text())
        assert results["manifest"]["word_errors"] == sum(row["word_errors"] for row in rows)
        assert results["cut"]["manifest"] == 2 * (name != "short")
        assert ("are longer than 25 s" in out) == (name != "short")
    assert "2 of 5 recordings" in out
    assert found["both"] == found["short"] | found["long"]
    ended = launch("transcribe", "--run_dir=run", "--format=jsonl", *long_recordings, folder=workplace)
    heard = [json.loads(line) for line in ended.out.splitlines()]
    assert len(heard) == 2
    for transcript, recording in zip(heard, long_recordings, strict=True):
        row = found["long"][recording]
        assert row["transcript"] == transcript["text"]
        assert len(row["transcript"].replace(" ", "")) > 20
        placed = [pair for pair in row["alignment"] if pair["heard"] is not None]
        words = [word for segment in transcript["segments"] for word in segment["words"]]
        assert [pair["start"] for pair in placed] == pytest.approx([word["start"] for word in words], abs=0.002)


def test_limits_of_the_loader_do_not_hold_for_long_recordings(launch, workplace, long_recordings):
    flags = ("--data.max_frames=300", "--data.padded_shapes=2")
    rows = {}
    for name in ("short", "both"):
        evaluate(launch, workplace, f"--manifest=data/{name}.csv", *flags, f"--save_output={name}.jsonl")
        lines = [json.loads(line) for line in (workplace / f"{name}.jsonl").read_text().splitlines()]
        rows[name] = {row["audio"]: row for row in lines}
    assert rows["short"].items() <= rows["both"].items()
    ended = launch(
        "evaluate", "--run_dir=run", "--manifest=data/both.csv", "--data.max_recording_seconds=60", folder=workplace
    )
    assert (ended.status, "over_a_minute.wav" in ended.err) == (1, True)


def test_logits_of_long_recordings_are_left_out_and_the_output_says_so(launch, workplace, long_recordings):
    saved = {}
    for name in ("short", "both"):
        out = evaluate(launch, workplace, f"--manifest=data/{name}.csv", f"--save_logits={name}.npz")
        saved[name] = saved_logits.load(workplace / f"{name}.npz")
        assert ("not in --save_logits" in out) == (name == "both")
    assert saved["both"].about.audio == saved["short"].about.audio
    assert saved["both"].about.references == saved["short"].about.references
    assert all(torch.equal(*pair) for pair in zip(saved["both"].logits, saved["short"].logits, strict=True))
    ended = launch("evaluate", "--run_dir=run", "--manifest=data/long.csv", "--save_logits=long.npz", folder=workplace)
    assert (ended.status, "--save_logits" in ended.err) == (1, True)


def test_a_calibration_leaves_long_recordings_out_and_says_so(launch, workplace, long_recordings):
    shutil.copytree(workplace / "run", workplace / "long_val")
    measured = []
    for name in ("short", "both"):
        flags = (f"--data.val_manifest=data/{name}.csv", "--onsets=0")
        ended = launch("calibrate", "--run_dir=long_val", *flags, folder=workplace)
        assert ended.status == 0, ended.err
        measured.append(ended.out.splitlines()[-1])
        said = "2 of 5 recordings are longer than 25 s and are left out"
        assert (said in " ".join(ended.out.split())) == (name == "both")
    assert measured[0] == measured[1]
    ended = launch("calibrate", "--run_dir=long_val", "--data.val_manifest=data/long.csv", folder=workplace)
    assert (ended.status, "all recordings are longer than 25 s" in ended.err) == (1, True)


def test_errors_of_long_recordings_are_analysed(launch, workplace, long_recordings):
    ended = launch(
        "report",
        *("--errors=run", "--split=test", "--data.test_manifest=data/both.csv", "--speaker=(data)", "--output=errors"),
        folder=workplace,
    )
    assert ended.status == 0, ended.err
    evaluate(launch, workplace, "--manifest=data/both.csv", "--save_results=r")
    analysed = json.loads((workplace / "errors").read_text())
    assert analysed["counts"]["words"]["errors"] == json.loads((workplace / "r").read_text())["manifest"]["word_errors"]


def test_transcripts_have_single_spaces_as_those_of_launch_transcribe(tmp_path):
    utterance = Utterance(0, tmp_path / "a.wav", "W O", 1.0)
    split = SimpleNamespace(utterances=[utterance, utterance], references={0: "W O", 1: ""})
    found = SimpleNamespace(transcripts={1: "  ", 0: "W  O "})
    assert [each.transcript for each in decoding.transcripts(split, found)] == ["W O", ""]
