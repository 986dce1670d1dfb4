"""Tests of the references of a split."""

import pytest
from conftest import write_tones

from ds2f import metrics
from ds2f.config import Config, DataConfig, resolve
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
