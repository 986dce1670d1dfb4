"""Hot words from a file or a list: normalised, and refused with the line and a remedy."""

import pytest

from ds2f.data.hot_word_lists import read_hot_words
from ds2f.errors import InputError

LABELS = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(content, name="words.txt"):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_hot_words(name, LABELS, boost=2.0)

    return read


def test_a_list_and_a_file_give_phrases_in_the_labels_spelling(read):
    expected = (("KOWALSKI", 2.0), ("NEW YORK", 2.0), ("O'BRIEN", 2.0))
    assert read_hot_words("Kowalski, new  york,O\u2019Brien,KOWALSKI", LABELS, boost=2.0).phrases == expected
    assert read("\ufeffKowalski\r\n# towns\n\n  new york \nO\u2019Brien\nkowalski\n").phrases == expected
    assert read("Kowalski\nnew york\nO'Brien", name="names").phrases == expected  # a file that is there


def test_a_phrase_may_have_its_own_boost(read):
    assert read("KOWALSKI\t3.5\nRUBOUT\n").phrases == (("KOWALSKI", 3.5), ("RUBOUT", 2.0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("KOWALSKI\nŁÓDŹ\n", "words.txt, line 2: the hot word 'ŁÓDŹ' has characters outside the labels"),
        ("A\nA\t3\n", "words.txt, line 2: 'A' has the boost 3, but 2 at words.txt, line 1"),
        ("A\tmuch\n", "line 1: the boost 'much' is no number"),
        ("A\t\n", "line 1: the boost '' is no number"),
        ("A\t-1\n", "line 1: the boost -1 is out of range"),
        ("A\t1e999\n", "line 1: the boost inf is out of range"),
        ("\t2\n", "line 1: an empty hot word"),
        ("# none\n\n", "words.txt: no hot words"),
        (b"\xff\xfe", "not UTF-8"),
        ("A" * 300_000, "the limit is 262,144 bytes"),
        ("A" * 101, "line 1: the hot word 'AAAAAAAAAAAAAAAAAAAA'… has 101 characters"),
        ("A\x1b[31m", "line 1: the hot word"),
    ],
)
def test_files_that_cannot_be_used_are_refused(read, content, said):
    with pytest.raises(InputError) as refused:
        read(content)
    assert said in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("KOWALSKI,,A", "entry 2: an empty hot word"),
        ("A,", "entry 2: an empty hot word"),
        ("A,42", "entry 2: the hot word '42' has characters outside the labels"),
        ("none.txt", "--lm.hot_words=none.txt: No such file"),
        ("folder/none", "--lm.hot_words=folder/none: No such file"),
        (".", "not a file"),
    ],
)
def test_lists_and_names_that_cannot_be_used_are_refused(read, given, said):
    with pytest.raises(InputError, match=said):
        read_hot_words(given, LABELS, boost=2.0)
