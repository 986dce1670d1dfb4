"""Labels that are pieces of words: learnt from transcripts, spelt out again, and taken by losses and decoders."""

import itertools
from collections import Counter

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from ds2f import ctc, text
from ds2f.config import read_labels
from ds2f.data.corpora import bpe, label_lists, synthetic
from ds2f.decode import greedy, words
from ds2f.errors import InputError
from ds2f.types import Logits

pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")

SAID = ["low lower lowest", "new newer newest", "wide wider widest slow"]
LABELS = ("_", " ", *sorted(set("".join(SAID)) - {" "}))


def transcripts(language):
    lines = synthetic.script(0, {"train": 200, "val": 1, "test": 1}, language)
    return [line.transcript for line in lines if line.split == "train"]


@pytest.mark.parametrize("language", ["en", "de", "cmn"])
def test_pieces_spell_every_transcript_in_fewer_labels(language):
    said = transcripts(language)
    letters = label_lists.of(text.characters(said))
    labels = bpe.pieces(said, letters, number=len(letters) + 60)
    assert labels[: len(letters)] == letters
    assert len(labels) == len(set(labels)) == len(letters) + 60
    assert all(" " not in piece for piece in labels[len(letters) :])
    for each in said:
        assert text.decode(text.encode(each, labels), labels) == text.clean(each, letters)
    one, other = (sum(len(text.encode(each, chosen)) for each in said) for chosen in (letters, labels))
    assert other < 0.7 * one


def test_the_first_piece_is_the_most_frequent_pair():
    said = ["an ant and", "hand land sand", "at ate late"]
    pairs = Counter("".join(pair) for word in " ".join(said).split() for pair in itertools.pairwise(word))
    ((most, number), (_, second)) = pairs.most_common(2)
    assert number > second  # no tie
    letters = label_lists.of(text.characters(said))
    assert bpe.pieces(said, letters, number=len(letters) + 1) == (*letters, most)


def test_the_same_transcripts_give_the_same_pieces_and_no_more_than_there_are():
    many = bpe.pieces(SAID, LABELS, number=1000)
    assert many == bpe.pieces(SAID, LABELS, number=1000)
    assert bpe.pieces(SAID, LABELS, number=20) == many[:20]
    assert all(any(piece in word for word in " ".join(SAID).split()) for piece in many[2:])
    assert len(many) < 60


@given(st.text(alphabet="".join(LABELS[1:]), min_size=1, max_size=30))
def test_other_texts_of_the_same_letters_are_spelt(drawn):
    labels = bpe.pieces(SAID, LABELS, number=25)
    assert text.decode(text.encode(drawn, labels), labels) == text.clean(drawn, LABELS)


def test_losses_and_decoders_take_pieces():
    labels = bpe.pieces(SAID, LABELS, number=30)
    ids = text.encode("lowest new slower", labels)
    assert len(ids) < len("lowest new slower")
    path = [0, *(index for label in ids for index in (label, 0))]
    values = 9.0 * torch.eye(len(labels))[path]
    logits = Logits(values[None], torch.tensor([len(path)]))
    (found,) = greedy(logits, labels)
    assert found.text == "lowest new slower"
    placed = words(values.log_softmax(1).numpy(), found.tokens, labels)
    assert [word.text for word in placed] == ["lowest", "new", "slower"]
    loss = ctc.native(logits, torch.tensor([ids]), torch.tensor([len(ids)]))
    expected = torch.nn.functional.ctc_loss(
        values.log_softmax(1)[:, None], torch.tensor([ids]), torch.tensor([len(path)]), torch.tensor([len(ids)])
    )
    torch.testing.assert_close(loss[0] / len(ids), expected)


def test_numbers_and_texts_that_give_no_pieces_are_refused():
    with pytest.raises(InputError, match=f"--pieces=5: {len(LABELS)} labels are single letters already"):
        bpe.pieces(SAID, LABELS, number=5)
    with pytest.raises(InputError, match="have no words"):
        bpe.pieces(["", " "], LABELS, number=100)


def test_the_command_writes_pieces_for_a_training(launch, tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.1] * 1600, 16000)
    rows = "".join(f'{{"audio_filepath": "a.wav", "text": "{each}"}}\n' for each in SAID)
    (tmp_path / "train.jsonl").write_text(rows)
    command = ("prepare", "--labels=labels.json", "--data.train_manifest=train.jsonl")
    done = launch(*command, "--pieces=30", folder=tmp_path)
    assert done.status == 0, done.err
    assert "labels.json: 30 labels" in done.out
    labels = read_labels(str(tmp_path / "labels.json"))
    assert labels == bpe.pieces(SAID, LABELS, number=30)
    done = launch("prepare", "--pieces=30", folder=tmp_path)
    assert done.status == 1
    assert "--pieces: has an effect on --labels=FILE only" in done.err
