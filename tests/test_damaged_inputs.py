"""Whatever is damaged, a command says so in words and leaves nothing behind that looks complete."""

import json
import math
import random
import shutil
from collections import Counter

import damage
import pytest
from conftest import write_tones

CASES = damage.cases()
FLAGS = {"train": damage.TRAIN, "evaluate": damage.EVALUATE, "prepare": damage.PREPARE}
LIMIT = 20.0  # seconds


@pytest.fixture(scope="module")
def healthy(launch, tmp_path_factory):
    """A folder with a corpus and a run of two epochs that was trained on it."""
    folder = tmp_path_factory.mktemp("healthy")
    for split, count in (("train", 4), ("val", 1), ("test", 1)):
        rows = [write_tones(folder, f"{split}{index}", "ABCA"[index:] + "BC", index) for index in range(count)]
        (folder / f"tones_{split}_manifest.csv").write_text("".join(rows))
    ended = launch("train", *damage.TRAIN, "--run_dir=run", "--training.epochs=2", folder=folder, limit=60)
    assert ended.status == 0, ended.err
    shutil.rmtree(folder / "cache")
    (folder / "run/results.json").unlink()  # so that only a command that succeeds leaves one
    return folder


def test_there_are_two_hundred_damages_and_more():
    assert len({case.id for case in CASES}) == len(CASES) >= 200
    kinds = Counter(case.id.partition("-")[0] for case in CASES)
    assert min(kinds[kind] for kind in ("audio", "manifest", "flag", "labels", "checkpoint", "archive")) >= 10
    assert {case.module for case in CASES} == {"prepare", "train", "evaluate"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_damage_ends_in_words_and_in_nothing_that_looks_complete(launch, healthy, tmp_path, case):
    folder = tmp_path / "damaged" / "here"
    shutil.copytree(healthy, folder)
    given = case.damage(folder, random.Random(case.id))
    ended = launch(case.module, *FLAGS[case.module], *given, folder=folder, limit=LIMIT)
    said = ended.out + ended.err
    shown = f"status {ended.status} after {ended.seconds:.1f} s\n{said[:3000]}"
    assert "Traceback" not in said, shown
    assert ended.status in {damage.REFUSED: (1,), damage.TOLD: (0, 1), damage.FINE: (0,)}[case.ends], shown
    assert case.names in said, shown
    assert len(ended.err) < 20_000, "a message is read by a person"
    if ended.status:
        assert ended.err.strip(), "a refusal goes to standard error"
        assert not list(folder.glob("*/results.json"))
        # An error in the first validation comes after the checkpoint of the epoch, which stays.
        assert bool(list(folder.glob("new/checkpoints/*/*"))) == (case.id == "audio-nan-val-not-allowed")
        assert not (folder / "saved.json").exists()
        assert not list(folder.glob("prepared/*"))
        assert not list(folder.parents[1].glob("**/evil*"))
    elif case.module == "train":
        run = folder / "new" if (folder / "new").exists() else folder / "run"
        results = json.loads((run / "results.json").read_text())
        assert math.isfinite(results["val"]["wer"])
    else:
        assert len(json.loads((folder / "saved.json").read_text())) >= 1
