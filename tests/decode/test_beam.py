import itertools
import math
import sys
from functools import cache, partial

import arpa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ds2f import decode
from ds2f.config import BeamConfig
from ds2f.data.language_model import open_language_model
from ds2f.errors import InputError
from ds2f.types import Logits

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")

WIDE = {"beam_size": 5000, "beam_size_token": 0, "beam_threshold": 900.0}  # nothing leaves the beam


def transcripts(values: Tensor, labels: str, spelt=lambda text: text, *, most=99) -> dict[str, float]:
    """The log-probability of every transcript of one utterance [T, V], summed over all paths to it.

    Paths take the ``most`` likeliest labels of each frame.
    """
    log_probs = values.double().log_softmax(dim=1).tolist()
    found: dict[str, list[float]] = {}
    likeliest = [sorted(range(len(labels)), key=lambda label: -row[label])[:most] for row in log_probs]
    for path in itertools.product(*likeliest):
        text = "".join(labels[label] for label, _ in itertools.groupby(path) if labels[label] != "_")
        score = sum(row[label] for row, label in zip(log_probs, path, strict=True))
        found.setdefault(spelt(text), []).append(score)
    return {text: torch.tensor(scores, dtype=torch.float64).logsumexp(0).item() for text, scores in found.items()}


def draw(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_ranked_like(hypotheses, expected, labels):
    """The same texts with the same scores, best first."""
    assert {one.text for one in hypotheses} == expected.keys()
    for one in hypotheses:
        assert one.score == pytest.approx(expected[one.text], abs=2e-4)
        assert "".join(labels[token] for token in one.tokens) == one.text
        assert one.token_frames == sorted(set(one.token_frames))
    scores = [one.score for one in hypotheses]
    assert scores == sorted(scores, reverse=True)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["_A ", "A_ B", " BA_"]), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(0, 999)
)
def test_without_a_language_model_it_finds_every_transcript_with_its_probability(labels, lengths, seed):
    values = draw(seed, len(lengths), 4, len(labels))
    found = decode.beam(Logits(values, torch.tensor(lengths)), labels, cfg=BeamConfig(**WIDE))
    for row, (hypotheses, length) in enumerate(zip(found, lengths, strict=True)):
        assert_ranked_like(hypotheses, transcripts(values[row, :length], labels), labels)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 999))
def test_a_search_of_some_labels_a_frame_takes_the_likeliest(most, frames, seed):
    labels, values = "_A B", draw(seed, 1, frames, 4)
    cfg = BeamConfig(**WIDE | {"beam_size_token": most})
    (hypotheses,) = decode.beam(Logits(values, torch.tensor([frames])), labels, cfg=cfg)
    assert_ranked_like(hypotheses, transcripts(values[0], labels, most=most), labels)


@pytest.mark.parametrize("labels", ["_AB ", "_" + "".join(map(chr, range(0x4E00, 0x4E40))) + " "])
def test_by_default_the_best_text_is_the_one_that_a_search_of_all_labels_finds(labels):
    values = 4 * draw(5, 6, 40, len(labels))  # sure of most frames, as trained models are
    logits = Logits(values, torch.full((6,), 40))
    texts = [
        [found[0].text for found in decode.beam(logits, labels, cfg=BeamConfig(beam_size_token=tokens))]
        for tokens in (BeamConfig().beam_size_token, 0, 10_000)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert all(texts[0])


@pytest.fixture(scope="module")
def word_model(tmp_path_factory):
    """The model of words, opened for given labels."""
    path = arpa.write(tmp_path_factory.mktemp("words") / "lm.arpa", arpa.WORDS)
    return cache(partial(open_language_model, path))


@pytest.fixture(scope="module")
def character_model(tmp_path_factory):
    """The model of characters, likewise."""
    path = arpa.write(tmp_path_factory.mktemp("characters") / "lm.arpa", arpa.CHARACTERS)
    return cache(partial(open_language_model, path))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["_AB ", " B_A"]), st.integers(1, 5), st.integers(0, 999), st.floats(0, 2), st.floats(-2, 2))
def test_with_a_model_of_words_it_finds_every_sentence_of_its_words(word_model, labels, frames, seed, weight, bonus):
    values = draw(seed, 1, frames, 4)
    expected = {
        text: score + weight * arpa.sentence(arpa.WORDS, text.split()) + bonus * len(text.split())
        for text, score in transcripts(values[0], labels, lambda text: " ".join(text.split())).items()
        if set(text.split()) <= {"A", "AB", "B"}
    }
    cfg, lm = BeamConfig(weight=weight, word_score=bonus, **WIDE), word_model(labels)
    (hypotheses,) = decode.beam(Logits(values, torch.tensor([frames])), labels, cfg=cfg, lm=lm)
    assert_ranked_like(hypotheses, expected, labels)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(["_AB ", " B_A"]), st.integers(1, 5), st.integers(0, 999), st.floats(0, 2), st.floats(-2, 2))
def test_with_a_model_of_characters_it_finds_every_spelling(character_model, labels, frames, seed, weight, bonus):
    values = draw(seed, 1, frames, 4)
    expected = {
        text: score
        + weight * arpa.sentence(arpa.CHARACTERS, ["<space>" if character == " " else character for character in text])
        + bonus * len(text)
        for text, score in transcripts(values[0], labels).items()
    }
    cfg, lm = BeamConfig(weight=weight, word_score=bonus, **WIDE), character_model(labels)
    (hypotheses,) = decode.beam(Logits(values, torch.tensor([frames])), labels, cfg=cfg, lm=lm)
    assert_ranked_like(hypotheses, expected, labels)


def spelt(path: str, labels: str, *, sure: float = 20.0) -> Tensor:
    """Logits [1, T, V] whose best path is ``path``."""
    return sure * torch.nn.functional.one_hot(torch.tensor([[labels.index(label) for label in path]]), len(labels))


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("labels", ["_AB ", "AB _"])
def test_where_the_logits_leave_no_doubt_it_reads_what_greedy_reads_from_the_same_frames(labels, size):
    logits = Logits(spelt(" __AA_ABB  _", labels), torch.tensor([12]))
    (hypotheses,) = decode.beam(logits, labels, cfg=BeamConfig(beam_size=size))
    (greedy,) = decode.greedy(logits, labels)
    assert hypotheses[0][:3] == greedy[:3]
    assert len(hypotheses) <= size


def test_a_sentence_of_a_word_model_begins_at_the_words_frames_and_has_single_spaces(word_model):
    labels = "_AB "
    logits = Logits(spelt(" _AABB _ _B__ ", labels), torch.tensor([14]))
    (hypotheses,) = decode.beam(logits, labels, cfg=BeamConfig(), lm=word_model(labels))
    best = hypotheses[0]
    assert (best.text, best.token_frames) == ("AB B", [2, 4, 6, 10])


def test_a_model_of_words_hears_its_words_alone_and_one_of_characters_any(word_model, character_model):
    labels = "_AB "
    values = spelt("A_ _BA", labels)
    values[0, 4, labels.index("A")] = 15.0  # not as likely as the B, but BA is no word
    logits = Logits(values, torch.tensor([6]))
    assert decode.greedy(logits, labels)[0].text == "A BA"
    for model, text in ((word_model, "A A"), (character_model, "A BA")):
        assert decode.best_of_beam(BeamConfig(), model(labels))(logits, labels)[0].text == text


@pytest.mark.parametrize(("weight", "text"), [(0.0, "A"), (3.0, "B")])
def test_the_language_models_weight_decides_between_the_sounds_word_and_its_own(tmp_path, weight, text):
    ngrams = {("<unk>",): (-9, 0), ("<s>",): (-9, 0), ("</s>",): (-0.5, 0), ("A",): (-1, 0), ("B",): (-0.2, 0)}
    path = arpa.write(tmp_path / "lm.arpa", ngrams | {("B", "B"): (-1, 0)})
    logits = Logits(torch.tensor([[[0.0, 5.0, 4.0, 0.0]]]), torch.tensor([1]))
    decoder = decode.best_of_beam(BeamConfig(path=str(path), weight=weight), open_language_model(path, "_AB "))
    assert decoder(logits, "_AB ")[0].text == text


@pytest.mark.parametrize(("threshold", "text", "highest"), [(900.0, "", 0.0), (20.0, "A", -9000.0)])
def test_an_unfinished_word_is_left_only_where_nothing_else_is_left_in_the_beam(tmp_path, threshold, text, highest):
    ngrams = {("<unk>",): (-9, 0), ("<s>",): (-9, 0), ("</s>",): (-0.5, 0), ("AB",): (-1, 0), ("AB", "AB"): (-1, 0)}
    lm = open_language_model(arpa.write(tmp_path / "lm.arpa", ngrams), "_AB ")
    logits = Logits(spelt("A", "_AB ", sure=60.0), torch.tensor([1]))
    (hypotheses,) = decode.beam(logits, "_AB ", cfg=BeamConfig(beam_threshold=threshold), lm=lm)
    assert hypotheses[0].text == text
    assert highest - 1500 < hypotheses[0].score <= highest


def test_an_utterance_reads_the_same_alone_as_in_a_batch(word_model):
    labels, cfg = "_AB ", BeamConfig(beam_size=20)
    values, lengths = draw(1, 3, 30, 4), torch.tensor([30, 0, 17])
    together = decode.beam(Logits(values, lengths), labels, cfg=cfg, lm=word_model(labels))
    assert [hypotheses[0].text for hypotheses in together][1] == ""
    assert [1 < len(hypotheses) <= 20 for hypotheses in together] == [True, False, True]
    for row, length in enumerate(lengths.tolist()):
        one = Logits(values[row : row + 1, :length], lengths[row : row + 1])
        assert decode.beam(one, labels, cfg=cfg, lm=word_model(labels)) == [together[row]]


def test_a_language_model_that_is_named_but_not_opened_is_not_left_out_in_silence():
    with pytest.raises(InputError, match="open_language_model"):
        decode.beam(Logits(torch.zeros(1, 1, 2), torch.tensor([1])), "_A", cfg=BeamConfig(path="lm.arpa"))


def test_frames_past_the_end_are_not_read():
    values = spelt("AABB", "_AB").float()
    values[:, 2:] = math.nan
    (hypotheses,) = decode.beam(Logits(values, torch.tensor([2])), "_AB", cfg=BeamConfig())
    assert hypotheses[0].text == "A"


def test_logits_that_are_not_numbers_and_empty_batches_do_no_harm():
    nothing = decode.Hypothesis("", [], [], -math.inf)
    assert decode.beam(Logits(torch.full((1, 3, 3), math.nan), torch.tensor([3])), "_AB", cfg=BeamConfig()) == [
        [nothing]
    ]
    assert decode.beam(Logits(torch.zeros(0, 3, 3), torch.zeros(0, dtype=torch.int64)), "_AB", cfg=BeamConfig()) == []


def test_the_decoder_of_a_configuration_is_greedy_unless_a_search_is_asked_for():
    assert decode.from_config(BeamConfig()) is decode.greedy
    assert decode.from_config(BeamConfig(path="lm.arpa", decoder="greedy")) is decode.greedy
    labels = "_A"
    values = torch.tensor([[[2.0, 1.9], [2.0, 1.9]]])  # the best path is all blank, the best transcript is A
    logits = Logits(values, torch.tensor([2]))
    assert [decode.from_config(BeamConfig(decoder=name))(logits, labels)[0].text for name in ("greedy", "beam")] == [
        "",
        "A",
    ]


def test_without_flashlight_text_it_says_what_to_install(monkeypatch):
    for name in list(sys.modules):
        if name.startswith("flashlight"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flashlight", None)
    with pytest.raises(InputError, match=r"pip install 'ds2f\[lm\]'"):
        decode.beam(Logits(torch.zeros(1, 1, 2), torch.tensor([1])), "_A", cfg=BeamConfig())
