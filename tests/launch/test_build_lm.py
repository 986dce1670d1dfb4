"""Tests of launch.build_lm: n-gram models of transcripts; irstlm estimates them where it is installed."""

import itertools
import os
import random
import shutil
from pathlib import Path

import arpa
import pytest

from ds2f.config import Config
from ds2f.errors import InputError
from launch import build_lm

ROOT = Path(__file__).parents[2]
needs_irstlm = pytest.mark.skipif(not shutil.which("irstlm"), reason="irstlm is not installed: apt-get install irstlm")


def sentences(seed, count=300):
    """Sentences whose words are as unevenly spread as in a language, so that Kneser-Ney's discounts exist."""
    drawn = random.Random(seed)
    words = ["GO", "ÉTÉ", *("".join(drawn.choices("ABCDE", k=3)) + f"{rank}" for rank in range(120))]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return [drawn.choices(words, weights, k=drawn.randint(0, 6)) for _ in range(count)]


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_transcripts_are_cut_into_units(unit):
    expected = {"words": [["GO", "ÉTÉ"], []], "characters": [["G", "O", "<space>", "É", "T", "É"], []]}
    assert list(build_lm.tokens(["GO ÉTÉ", ""], "_GOÉT ", unit=unit)) == expected[unit]


def test_transcripts_are_spelled_with_the_labels():
    given = ["Rubout, please", "stop"]
    assert build_lm.spell(given, Config().model.labels, unknown="drop_character") == ["RUBOUT PLEASE", "STOP"]
    assert build_lm.spell(given, Config().model.labels, unknown="drop_utterance") == ["STOP"]
    with pytest.raises(InputError, match="','"):
        build_lm.spell(given, Config().model.labels, unknown="error")


@needs_irstlm
def test_a_model_of_characters_has_the_space_even_if_no_transcript_has_one(tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    from ds2f.data.language_model import open_language_model

    text = build_lm.estimate(
        list(build_lm.tokens(["YES", "NO", "GO"], "_YESNOG", unit="characters")), order=3, methods=["witten_bell"]
    )[1]
    spaced = build_lm.with_space(text)
    assert arpa.read(spaced).keys() - arpa.read(text).keys() == {("<space>",)}
    assert build_lm.with_space(spaced) == spaced
    (tmp_path / "lm.arpa").write_text(spaced)
    assert open_language_model(tmp_path / "lm.arpa", "_ YESNOG").unit == "characters"


@needs_irstlm
@pytest.mark.parametrize("method", ["witten_bell", "kneser_ney"])
@pytest.mark.parametrize("order", [2, 4])
def test_after_every_history_the_probabilities_sum_to_one_and_nothing_is_pruned(method, order):
    corpus = sentences(1)
    used, text = build_lm.estimate(corpus, order=order, methods=[method])
    assert used == method
    model = arpa.read(text)
    vocabulary = [key[0] for key in model if len(key) == 1]
    histories = [(), *(key for key in model if len(key) < order and key[-1] != "</s>"), ("FIVE", "never seen")]
    assert len(histories) > 30
    for history in histories:
        total = sum(10 ** arpa.log10(model, history, token) for token in vocabulary)
        assert total == pytest.approx(1, abs=2e-4), history
    seen = {
        padded[start : start + size]
        for padded in (("<s>", *sentence, "</s>") for sentence in corpus)
        for size in range(1, order + 1)
        for start in range(len(padded) - size + 1)
    }
    assert seen <= model.keys()
    assert {*itertools.chain(*corpus), "<s>", "</s>", "<unk>"} == set(vocabulary)


@needs_irstlm
def test_bigrams_have_witten_and_bells_probabilities():
    corpus = sentences(2)
    model = arpa.read(build_lm.estimate(corpus, order=2, methods=["witten_bell"])[1])
    followers = [pair[1] for one in corpus for pair in itertools.pairwise(["<s>", *one, "</s>"]) if pair[0] == "GO"]
    count, kinds = len(followers), len(set(followers))
    for word in set(followers):
        # Witten-Bell: seen followers keep their counts, and the shorter history fills the mass of new followers.
        expected = (followers.count(word) + kinds * 10 ** model[(word,)][0]) / (count + kinds)
        assert 10 ** model[("GO", word)][0] == pytest.approx(expected, rel=1e-4)


@needs_irstlm
def test_kenlm_scores_sentences_as_the_file_defines(tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")
    from ds2f.data.language_model import open_language_model

    for unit, order, method in (("words", 3, "kneser_ney"), ("characters", 5, "witten_bell")):
        corpus = list(build_lm.tokens((" ".join(one) for one in sentences(1)), "_A", unit=unit))
        path = tmp_path / f"{unit}.arpa"
        path.write_text(build_lm.estimate(corpus, order=order, methods=[method])[1], encoding="utf-8")
        model = arpa.read(path.read_text(encoding="utf-8"))
        labels = "_ ABCDEGOTÉ0123456789"
        lm = open_language_model(path, labels)
        assert lm.unit == unit
        names = [key[0] for key in model if len(key) == 1 and key[0] not in ("<s>", "</s>", "<unk>")]
        index = names if unit == "words" else ["<space>" if label == " " else label for label in labels]
        for tokens in [*corpus[:20], [*corpus[0], *corpus[1]]]:
            state, total = lm.scorer.start(False), 0.0
            for token in tokens:
                state, score = lm.scorer.score(state, index.index(token))
                total += score
            total += lm.scorer.finish(state)[1]
            assert total * 2.302585 == pytest.approx(arpa.sentence(model, tokens), rel=1e-4)


@pytest.fixture
def build(launch, tmp_path):
    """Runs the command in ``tmp_path``, where it finds programs at ``path``."""
    return lambda *flags, path=os.environ["PATH"]: launch(
        "build_lm", *flags, folder=tmp_path, environment={"PATH": path}
    )


@needs_irstlm
@pytest.mark.parametrize("unit", ["words", "characters"])
def test_the_command_writes_a_model_of_the_transcripts_and_prints_its_size(build, tone_corpus, tmp_path, unit):
    flags = (f"--data_path={tone_corpus}", "--data.dataset=tones", f"--unit={unit}", "--output=lm.arpa")
    result = build(*flags)
    assert result.status == 0, result.err
    order = {"words": 4, "characters": 6}[unit]
    assert f"lm.arpa: {order}-gram model of" in result.out
    assert "witten-bell" in result.out, "a corpus of this size has no Kneser-Ney discounts"
    model = arpa.read((tmp_path / "lm.arpa").read_text())
    texts = [(tone_corpus / f"train{index}.txt").read_text().strip() for index in range(10)]
    units = set(texts) if unit == "words" else {*"".join(texts), "<space>"}
    assert {key[0] for key in model if len(key) == 1} == units | {"<s>", "</s>", "<unk>"}
    assert max(map(len, model)) <= order


@needs_irstlm
def test_train_on_val_adds_the_validation_transcripts_to_the_model(build, tone_corpus, tmp_path):
    flags = (f"--data_path={tone_corpus}", "--data.dataset=tones", "--data.train_on_val", "--output=lm.arpa")
    result = build(*flags)
    assert "from 13 transcripts" in result.out, result.err
    model = arpa.read((tmp_path / "lm.arpa").read_text())
    assert all(((tone_corpus / f"val{index}.txt").read_text().strip(),) in model for index in range(3))


def test_without_irstlm_the_command_names_the_package(build, tone_corpus, tmp_path):
    flags = (f"--data_path={tone_corpus}", "--data.dataset=tones", "--output=lm.arpa")
    result = build(*flags, path=str(tmp_path))
    assert result.status == 1
    assert result.err == "build_lm: irstlm is missing: apt-get install irstlm (Debian and Ubuntu)\n"
    assert not (tmp_path / "lm.arpa").exists()


def test_an_error_of_irstlm_is_reported_and_the_next_method_tried(tmp_path, monkeypatch):
    program = tmp_path / "irstlm"
    program.write_text(
        '#!/bin/sh\nfor word; do case $word in -lm=msb) echo "no singletons"; exit 4;; esac; done\n: >arpa\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert build_lm.estimate([["A"]], order=3, methods=["kneser_ney", "witten_bell"]) == ("witten_bell", "")
    with pytest.raises(InputError, match=r"3-gram model with --smoothing=kneser_ney \(status 4: 'no singletons'\)"):
        build_lm.estimate([["A"]], order=3, methods=["kneser_ney"])
    with pytest.raises(InputError, match="all empty"):
        build_lm.estimate([[], []], order=3, methods=["witten_bell"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output"),
        (["--output=nowhere/lm.arpa"], "folder that exists"),
        (["--output=lm.arpa", "--order=1"], "n-grams from 2 to 6"),
        (["--output=lm.arpa", "--order=7"], "n-grams from 2 to 6"),
        (["--output=lm.arpa", "--order=60", "--unit=characters"], "n-grams from 2 to 6"),
        (["--output=lm.arpa", "--data_path=nowhere"], "launch.prepare"),
        (["--output=lm.arpa", "--unit=letters"], "unit"),
    ],
)
def test_mistakes_end_in_one_message(build, tmp_path, flags, message):
    result = build(*flags)
    assert result.status == 1
    assert message in result.err
    assert "Traceback" not in result.err
