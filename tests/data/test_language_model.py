"""ARPA files as language models: what is read from them, and what is refused."""

import math

import arpa
import pytest

from ds2f.data.language_model import open_language_model
from ds2f.errors import InputError

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")


def test_the_unit_and_what_cannot_be_spelt_are_read_from_the_file(tmp_path):
    word_model, character_model = tmp_path / "words.arpa", tmp_path / "characters.arpa"
    arpa.write(word_model, arpa.WORDS)
    arpa.write(character_model, arpa.CHARACTERS)
    assert open_language_model(character_model, "_AB ")[0::3] == ("characters", 0)
    assert open_language_model(word_model, "_AB ")[0::3] == ("words", 0)
    assert open_language_model(word_model, "_A ").unspellable == 2
    with pytest.raises(InputError, match="upper and lower case"):
        open_language_model(word_model, "_ab ")
    assert open_language_model(character_model, "_AB").unit == "characters", "a script without spaces"
    with pytest.raises(InputError, match="label for the space"):
        open_language_model(word_model, "_AB")


@pytest.mark.parametrize(
    "content",
    [None, b"", b"not a model\n", b"\\data\\\nngram 1=2\n\n\\1-grams:\n-1\tA\n", b"\\1-grams:\n-1\n\\end\\\n", b"\xff"],
)
def test_a_file_that_is_no_language_model_is_refused_by_its_name(tmp_path, content):
    path = tmp_path / "bad.arpa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.arpa") as error:
        open_language_model(path, "_AB ")
    assert "Errno" not in str(error.value)
    assert str(error.value).count(str(path)) == 1


def test_kenlms_own_refusal_is_passed_on(tmp_path):
    path = tmp_path / "bad.arpa"
    path.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\tA\n-1\tB\n\n\\end\\\n")
    with pytest.raises(InputError, match=r"bad\.arpa: KenLM cannot read it"):
        open_language_model(path, "_AB ")


def ngrams(*shares):
    """A model of single entries: (entry, share of what is said)."""
    marks = {("<unk>",): (-9.0, 0.0), ("<s>",): (-9.0, 0.0), ("</s>",): (-1.0, 0.0)}
    return marks | {(entry,): (math.log10(share), 0.0) for entry, share in shares} | {("<s>", "</s>"): (-1.0, 0.0)}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([("<space>", 0.2), ("ж", 0.4), ("д", 0.4)], "0 of its 2 characters, 0%"),
        ([("<space>", 0.2), ("a", 0.3), ("b", 0.3), ("'", 0.1)], "1 of its 3 characters, 14%"),  # lower case
        ([("<space>", 0.1), ("A", 0.3), ("語", 0.6)], "1 of its 2 characters, 33%"),
        ([("ждём", 0.5), ("идём", 0.45), ("A", 0.05)], "1 of its 3 words, 5%"),
    ],
)
def test_a_model_of_another_alphabet_is_refused(tmp_path, shares, expected):
    path = arpa.write(tmp_path / "other.arpa", ngrams(*shares))
    with pytest.raises(InputError, match=rf"other\.arpa: {expected} .*language and script"):
        open_language_model(path, "_'AB ")


@pytest.mark.parametrize(
    ("shares", "unspellable"),
    [
        ([("<space>", 0.2), ("A", 0.4), ("B", 0.3), *((chr(0x4E00 + i), 0.0001) for i in range(300))], 300),
        ([("<space>", 0.2), ("A", 0.7), ("Ä", 0.1)], 1),
        ([("AB", 0.5), ("BÄ", 0.3), ("ÄB", 0.2)], 2),
    ],
)
def test_a_model_with_some_other_characters_is_taken_and_they_are_counted(tmp_path, shares, unspellable):
    path = arpa.write(tmp_path / "own.arpa", ngrams(*shares))
    assert open_language_model(path, "_'AB ").unspellable == unspellable
