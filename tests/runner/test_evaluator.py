"""Evaluation and transcription use the decoder that is passed to them."""

import shutil
from functools import partial

import attrs
import pytest

from ds2f import ctc, decode
from ds2f.config import ApexConfig, Config, DataConfig, ModelConfig, resolve
from ds2f.errors import InputError
from ds2f.metrics import count_errors
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend
from ds2f.runner.evaluator import evaluate
from ds2f.runner.splits import Split


@pytest.fixture
def cfg(tone_corpus):
    return resolve(
        Config(
            data_path=str(tone_corpus),
            device="cpu",
            data=DataConfig(dataset="tones", batch_size=2, num_workers=0, cache_features=False),
            model=ModelConfig(hidden_size=8, hidden_layers=1),
            apex=ApexConfig(opt_level="O0"),
        )
    )


def spelling_the_length(logits, labels):
    """A decoder whose hypothesis is a letter per frame of logits."""
    return [
        decode.Hypothesis("A" * length, [labels.index("A")] * length, [], 0.0) for length in logits.lengths.tolist()
    ]


def test_an_evaluation_counts_the_hypotheses_of_its_decoder(cfg):
    params, stats = deepspeech2.init(cfg.model, key=1)
    split, backend = Split.read("val", cfg), open_backend("cpu")
    loader = split.load(cfg)
    given = {"cfg": cfg.model, "policy": backend.policy(cfg.apex), "backend": backend}
    given["criterion"] = partial(ctc.ctc_loss, impl="native")
    found = evaluate(params, stats, loader.epoch(), split.references, decoder=spelling_the_length, **given)
    assert {"".join(sorted(set(text))) for text in found.transcripts.values()} == {"A"}
    assert found.counts.char_errors == sum(
        len(found.transcripts[row]) - reference.count("A") for row, reference in split.references.items()
    )
    plain = evaluate(params, stats, loader.epoch(), split.references, **given)
    greedy = evaluate(params, stats, loader.epoch(), split.references, decoder=decode.greedy, **given)
    assert plain == greedy


def test_an_evaluation_of_a_model_elsewhere_needs_no_weights(cfg):
    params, stats = deepspeech2.init(cfg.model, key=1)
    split, backend = Split.read("val", cfg), open_backend("cpu")
    loader, batches = split.load(cfg), []
    given = {"cfg": cfg.model, "policy": backend.policy(cfg.apex), "backend": backend}
    given["criterion"] = partial(ctc.ctc_loss, impl="native")

    def forward(batch):
        batches.append(batch)
        how = {"cfg": cfg.model, "train": False, "policy": given["policy"]}
        return deepspeech2.apply(params, stats, batch.features, batch.lengths, **how)[0]

    expected = evaluate(params, stats, loader.epoch(), split.references, **given)
    assert evaluate({}, {}, loader.epoch(), split.references, forward=forward, **given) == expected
    assert sum(len(batch.ids) for batch in batches) == len(expected.transcripts) > 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_recordings_that_cannot_be_read_are_left_out_counted_and_named(cfg, tone_corpus, tmp_path, num_workers, caplog):
    shutil.copytree(tone_corpus, tmp_path / "data")
    data = attrs.evolve(cfg.data, num_workers=num_workers)
    cfg = attrs.evolve(cfg, data_path=str(tmp_path / "data"), data=data)
    params, stats = deepspeech2.init(cfg.model, key=1)
    split, backend = Split.read("val", cfg), open_backend("cpu")
    given = {"cfg": cfg.model, "policy": backend.policy(cfg.apex), "backend": backend}
    given["criterion"] = partial(ctc.ctc_loss, impl="native")

    def found(**loading):
        loader = split.load(cfg, **loading)
        try:
            return evaluate(params, stats, loader.epoch(), split.references, **given)
        finally:
            loader.close()

    whole = found()
    (tmp_path / "data" / "val1.wav").unlink()
    (tmp_path / "data" / "val2.wav").write_bytes(b"no audio")
    rest = found(max_unreadable=2)
    assert (rest.unreadable, whole.unreadable) == (2, 0)
    assert rest.transcripts == {0: whole.transcripts[0]}
    assert rest.counts == count_errors(split.references[0], whole.transcripts[0])
    assert "left out (1 of at most 2): " in caplog.text
    assert "val1.wav: No such file" in caplog.text
    assert "val2.wav: not audio" in caplog.text
    with pytest.raises(InputError, match=r"2 recordings cannot be read, which is more than data\.max_unreadable=1"):
        found(max_unreadable=1)
    with pytest.raises(InputError, match=r"val[12]\.wav: "):  # a command that reports error rates leaves nothing out
        found()
    (tmp_path / "data" / "val0.wav").unlink()
    with pytest.raises(InputError, match="none of the 3 recordings"):
        found(max_unreadable=3)
