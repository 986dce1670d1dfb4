"""Evaluation and transcription use the decoder that is passed to them."""

from functools import partial

import attrs
import pytest
import torch

from ds2f import ctc, decode, tree
from ds2f.config import ApexConfig, Config, DataConfig, ModelConfig, resolve
from ds2f.inference.transcriber import Transcriber
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


def test_a_transcriber_returns_the_hypothesis_of_its_decoder(cfg, tone_corpus):
    params, stats = tree.map(torch.clone, deepspeech2.init(cfg.model, key=1))
    recording, backend = tone_corpus / "test0.wav", open_backend("cpu")
    plain = Transcriber(cfg, params, stats, backend=backend).transcribe(recording)
    spelt = Transcriber(cfg, params, stats, backend=backend, decoder=spelling_the_length).transcribe(recording)
    assert spelt.text == "A" * len(spelt.tokens) != plain.text
    with_space = attrs.evolve(cfg, model=attrs.evolve(cfg.model, labels=tuple("_' ABCDEFGHIJKLMNOPQRSTUVWXYZ")))
    other = Transcriber(with_space, params, stats, backend=backend, decoder=spelling_the_length)
    assert other.transcribe(recording).tokens[0] == with_space.model.labels.index("A"), "the labels are the model's"
