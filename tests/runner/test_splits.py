"""Tests of the references of a split."""

import json

import attrs
import pytest
import torch
from conftest import write_tones

from ds2f import metrics
from ds2f.config import CheckpointingConfig, Config, DataConfig, SpectConfig, TrainingConfig, resolve, to_dict
from ds2f.errors import InputError
from ds2f.runner import splits
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import Group
from ds2f.runner.splits import Split

LABELS = Config().model.labels


@pytest.mark.parametrize("policy", ["drop_character", "drop_utterance"])
def test_a_model_that_makes_no_error_is_counted_none_however_its_corpus_is_spelt(tmp_path, policy):
    texts = ["enter five", "Rubout, please", "", "STOP"]
    rows = [write_tones(tmp_path, f"test{index}", text or "a", index) for index, text in enumerate(texts)]
    (tmp_path / "test2.txt").write_text("\n")
    (tmp_path / "tones_test_manifest.csv").write_text("".join(rows))
    data = DataConfig(dataset="tones", num_workers=0, cache_features=False, unknown_characters=policy)
    cfg = resolve(Config(data_path=str(tmp_path), device="cpu", data=data))
    split = Split.read("test", cfg)
    spelt = {0: "ENTER FIVE", 1: "RUBOUT PLEASE", 2: "", 3: "STOP"}
    if policy == "drop_utterance":
        del spelt[1]
    assert split.references == spelt
    for batch in split.load(cfg).epoch():
        for row, labels, length in zip(batch.ids.tolist(), batch.labels, batch.label_lengths.tolist(), strict=True):
            learnt = "".join(LABELS[index] for index in labels[:length].tolist())
            assert metrics.count_errors(split.references[row], learnt).char_errors == 0


def write_set(folder, name, rows):
    """A table of the recordings ``{name}0.wav``, ... with texts; an empty text makes an empty recording."""
    lines = []
    for index, words in enumerate(rows):
        write_tones(folder, f"{name}{index}", words or "a", index)
        if not words:
            (folder / f"{name}{index}.wav").write_bytes(b"")
        lines.append(f"{name}{index}.wav,{words}\n")
    (folder / f"{name}.csv").write_text("audio,text\n" + "".join(lines), encoding="utf-8")


def config_of(folder, **data):
    named = DataConfig(train_manifest=str(folder / "train.csv"), num_workers=0, cache_features=False, **data)
    return resolve(Config(data=named, training=TrainingConfig(evaluate_test=True)))


def test_everything_that_is_wrong_with_all_sets_is_told_at_once(tmp_path):
    write_set(tmp_path, "train", ["", "A", "B7", ""])
    write_set(tmp_path, "val", ["7", "", "É"])
    with pytest.raises(InputError) as caught:
        splits.read_all(config_of(tmp_path))
    message = str(caught.value)
    assert "no test manifest lies beside it" in message
    assert f"train: {tmp_path}/train.csv: 3 of 4 rows cannot be used:" in message
    assert f"val: {tmp_path}/val.csv: 3 of 3 rows cannot be used:" in message
    assert "'7' 2, 'É' 1." in message
    assert "max_unusable" not in message, "nothing would be left of val"
    assert "no utterance to use" not in message


def test_up_to_the_limit_rows_are_left_out_of_every_set_with_a_remark(tmp_path):
    for name, rows in (("train", ["", "A", "B7", "C"]), ("val", ["A", "", "B"]), ("test", ["A"])):
        write_set(tmp_path, name, rows)
    found = splits.read_all(config_of(tmp_path, max_unusable=2))
    assert {name: list(split.references.values()) for name, split in found.items()} == {
        "train": ["A", "C"],
        "val": ["A", "B"],
        "test": ["A"],
    }
    assert [str(split.dataset.remarks[0]).split(",")[0] for split in found.values() if split.dataset.remarks] == [
        "2 utterance(s) left out",
        "1 utterance(s) left out",
    ]
    with pytest.raises(InputError, match="2 of 4 rows"):
        splits.read_all(config_of(tmp_path, max_unusable=1))


@pytest.mark.parametrize(("texts", "spaces"), [(["你好", "好"], False), (["A", ""], False), (["A B", "A"], True)])
def test_characters_decide_where_no_validation_reference_has_a_space(tmp_path, texts, spaces):
    write_set(tmp_path, "train", ["A B"])
    write_set(tmp_path, "val", texts if texts[1] else ["A", "B"])
    cfg = config_of(tmp_path)
    labels = ("_", *sorted(set("".join(texts)) | {"A", "B", " "}))
    cfg = attrs.evolve(cfg, model=attrs.evolve(cfg.model, labels=labels))
    read = {name: Split.read(name, cfg) for name in ("train", "val")}
    assert splits.deciding_rate(read, cfg) == ("wer" if spaces else "cer")
    assert splits.deciding_rate({"train": read["train"]}, cfg) == "wer"
    for metric in ("wer", "cer"):
        asked = attrs.evolve(cfg, training=attrs.evolve(cfg.training, metric=metric))
        assert splits.deciding_rate(read, asked) == metric


def test_statistics_of_features_are_those_that_the_weights_were_trained_on(tone_corpus, tmp_path):
    """Other recordings have other means, and weights know the features of their own training only."""
    base = Config(
        data_path=str(tone_corpus),
        data=DataConfig(dataset="tones", num_workers=0, cache_features=False),
        spect=SpectConfig(num_mels=16, normalize="global"),
    )
    read = {"train": Split.read("train", resolve(base), train=True)}
    measured = splits.with_statistics(read, resolve(base), Group())[1].spect
    for name, spect in (
        ("other", attrs.evolve(measured, mean=tuple(value + 1 for value in measured.mean), deviation=3.0)),
        ("unlike", attrs.evolve(measured, full_scale=7.0)),
        ("without", attrs.evolve(measured, mean=(), deviation=0.0)),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(to_dict(attrs.evolve(resolve(base), spect=spect))))
        start = attrs.evolve(base, checkpointing=CheckpointingConfig(continue_from=str(tmp_path / name)))
        found, cfg = splits.with_statistics(read, resolve(start), Group())
        expected = spect if name == "other" else measured
        assert (cfg.spect.mean, cfg.spect.deviation) == (expected.mean, expected.deviation)
        assert found["train"].dataset.spect == cfg.spect


@pytest.mark.parametrize(
    ("device", "local_ranks", "asked", "expected"),
    [
        ("cpu", 1, 4, 4),
        ("cpu", 1, 9, 8),
        ("cpu", 2, 4, 4),
        ("cpu", 8, 4, 1),
        ("cpu", 99, 4, 1),
        ("cpu", 8, 0, 0),
        ("npu", 8, 4, 4),
    ],
)
def test_ranks_on_a_cpu_start_no_more_loaders_than_help(monkeypatch, device, local_ranks, asked, expected):
    monkeypatch.setattr(splits, "cpu_count", lambda: 4)
    backend = Backend(device, torch.device("cpu"), "a device", torch.float32)
    cfg = Config(data=DataConfig(num_workers=asked))
    found = splits.with_useful_loaders(cfg, backend, local_ranks=local_ranks)
    assert found == attrs.evolve(cfg, data=attrs.evolve(cfg.data, num_workers=expected))
