# ruff: noqa: RUF001  # characters that look alike are the subject

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds2f import text
from ds2f.config import DEFAULT_LABELS
from ds2f.errors import InputError

CHARACTERS = [label for label in DEFAULT_LABELS if label != "_"]
POLICIES = ("error", "drop_character", "drop_utterance")


@pytest.mark.parametrize("unknown", POLICIES)
def test_every_label_survives_the_round_trip_the_one_at_index_0_included(unknown: str) -> None:
    labels = (*CHARACTERS[::-1], "_")
    assert text.encode("ZA' Z", labels, unknown=unknown) == [1, 26, 27, 0, 1]
    everything = "".join(CHARACTERS).strip()
    ids = text.encode(everything, labels, unknown=unknown)
    assert ids is not None
    assert text.decode(ids, labels) == everything


@given(st.text(alphabet=CHARACTERS), st.permutations(DEFAULT_LABELS))
def test_decode_inverts_encode_for_any_order_of_the_labels(transcript: str, labels: list[str]) -> None:
    ids = text.encode(transcript, labels)
    assert ids is not None
    assert labels.index("_") not in ids
    assert text.decode(ids, labels) == text.clean(transcript, labels) == " ".join(transcript.split())


@given(
    st.text(),
    st.sampled_from(["_ABC ", "_abc ", "_aB ", "_ㄱㄴ ", "_一二", "_'ÄÖÜ ", "_IİKLY ", "_abıi ", "_σςδο ", '_Aß-"']),
)
def test_cleaning_twice_changes_nothing(transcript: str, labels: str) -> None:
    once = text.clean(transcript, tuple(labels))
    assert text.clean(once, tuple(labels)) == once


@pytest.mark.parametrize(
    ("transcript", "labels", "expected"),
    [
        ("  Yes,\tno\n", "_ABC ", "YES, NO"),
        ("Yes NO", "_abc ", "yes no"),
        ("Yes NO", "_aB ", "Yes NO"),
        ("Yes", "_一二 ", "Yes"),
        ("\uff21\uff42\u3000\ufb01", "_ABC ", "AB FI"),
        ("A\u0308", "_ÄB", "Ä"),
        ("\u3131", "_\u3131\u3134 ", "\u3131"),
        ("iyi ılık", "_ABCIİKLY ", "İYİ ILIK"),
        ("İYİ ILIK", "_abciıkly ", "iyi ılık"),
        ("istanbul I", "_ABILNSTU ", "ISTANBUL I"),
        ("straße", "_ABEIRST ", "STRASSE"),
        ("straße", "_ABEIRSTß ", "STRAßE"),
        ("STRAẞE Straße", "_abeirstß ", "straße straße"),
        ("ΟΔΟΣ Σ", "_δοσς ", "οδος σ"),
        ("ΟΔΟΣ", "_δοσ ", "οδοσ"),
        ("café CAFÉ", "_ACFé ", "CAFé CAFé"),
        ("ŉ Ǆ", "_NDŽʼ ", "ʼN DŽ"),
        ("Nein Ja", "_aJNein ", "Nein Ja"),
        ("Q q", "_abAq ", "Q q"),
        ("don’t ‘em rock ʼn´ roll", "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ ", "DON'T 'EM ROCK 'N' ROLL"),
        ("don't", "_’ABCDNOT ", "DON’T"),
        ("don't don’t", "_'’ABCDNOT ", "DON'T DON’T"),
        ("„ja“ «oui»", '_"abcijou ', '"ja" "oui"'),
        ("well–known — a‑b", "_-abeklnow ", "well-known - a-b"),
    ],
)
def test_a_transcript_is_spelt_as_the_labels_are(transcript: str, labels: str, expected: str) -> None:
    assert text.clean(transcript, tuple(labels)) == expected


def test_unknown_characters_stop_the_run_and_are_named_with_the_remedies() -> None:
    with pytest.raises(InputError, match=r"'2' '_'.*--data\.labels_path.*--data\.unknown_characters=drop_character"):
        text.encode("2 YES_NO", DEFAULT_LABELS)


def test_a_dropped_character_leaves_no_double_space() -> None:
    ids = text.encode("YES & NO 7", DEFAULT_LABELS, unknown="drop_character")
    assert ids is not None
    assert text.decode(ids, DEFAULT_LABELS) == "YES NO"


def test_only_utterances_with_unknown_characters_are_dropped() -> None:
    assert text.encode("YES 7", DEFAULT_LABELS, unknown="drop_utterance") is None
    assert text.encode("YES", DEFAULT_LABELS, unknown="drop_utterance") == [26, 6, 20]


def test_an_empty_transcript_is_no_dropped_utterance() -> None:
    assert [text.encode(" \n", DEFAULT_LABELS, unknown=unknown) for unknown in POLICIES] == [[], [], []]
    assert text.encode("77", DEFAULT_LABELS, unknown="drop_character") == []


@given(st.text(), st.permutations(DEFAULT_LABELS))
def test_the_policies_agree_on_what_is_unknown(transcript: str, labels: list[str]) -> None:
    strange = text.unknown_characters(transcript, labels)
    cleaned = text.clean(transcript, labels)
    assert strange == Counter(character for character in cleaned if character == "_" or character not in labels)
    kept = text.encode(transcript, labels, unknown="drop_character")
    assert kept is not None
    assert labels.index("_") not in kept
    assert text.decode(kept, labels).split() == "".join(c for c in cleaned if c not in strange).split()
    assert text.encode(transcript, labels, unknown="drop_utterance") == (None if strange else kept)
    if strange:
        with pytest.raises(InputError):
            text.encode(transcript, labels)


def test_counts_of_unknown_characters_add_up() -> None:
    counts = [text.unknown_characters(transcript, DEFAULT_LABELS) for transcript in ("7 UP", "747 _", "YES")]
    assert sum(counts, Counter()) == {"7": 3, "4": 1, "_": 1}


@pytest.mark.parametrize("dash", "-–—−")
def test_a_dash_between_words_is_punctuation_and_inside_a_word_a_hyphen(dash: str) -> None:
    spoken = [f"{dash} Tak {dash} nie", f"Maria {dash}{dash} Ewa", f"no {dash}"]
    found = text.characters([*spoken, f"bio{dash}herbata"])
    assert (found["—"], found["-"]) == (4, 1)
    assert text.characters(spoken)["-"] == 0


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match="'ignore' is not one of"):
        text.encode("YES", DEFAULT_LABELS, unknown="ignore")


def test_labels_with_both_cases_of_a_letter_tell_cases_apart() -> None:
    assert text.tells_cases_apart("_aAb ")
    assert not text.tells_cases_apart("_aBcß ")
    assert not text.tells_cases_apart("_IİKL ")


# Hindi and Yoruba: marks that Unicode has no single characters for. "_" is the blank.
HINDI = ("_", " ", "हि", "न्", "दी", "न")
YORUBA = ("_", " ", "ẹ", "ẹ́", "a", "b")
MARKED = st.text(alphabet="हिन्दी नaबẹ\u0301\u0323\u200d ", max_size=12)


def test_a_letter_with_marks_is_one_label():
    assert text.encode("हिन्दी न", HINDI) == [2, 3, 4, 1, 5]
    # The order of marks and the case are normalised.
    assert text.encode("bẹ\u0301 E\u0301\u0323B\u1eb8", YORUBA) == [5, 3, 1, 3, 5, 2]
    assert text.decode([2, 3, 4], HINDI) == "हिन्दी"


def test_a_letter_with_a_mark_that_is_no_label_is_unknown_as_a_whole():
    assert text.unknown_characters("नी न", HINDI) == {"नी": 1}
    assert text.encode("नी न", HINDI, unknown="drop_character") == [5]
    with pytest.raises(InputError, match="'नी'"):
        text.encode("नी न", HINDI)


def test_labels_of_single_code_points_spell_marks_by_themselves_as_before():
    labels = ("_", " ", *sorted(set("हिन्दी")), "zz")
    ids = text.encode("हिन्दी", labels)
    assert [labels[index] for index in ids] == list("हिन्दी")


def test_the_longest_label_that_fits_is_taken():
    labels = ("_", "A", "AB", "ABC", "B", " ")
    assert text.units("ABCABA ABX", labels) == ["ABC", "AB", "A", " ", "AB", "X"]


@given(MARKED, st.lists(st.text(alphabet="हिन्दीaẹ\u0301", min_size=1, max_size=3), max_size=6))
def test_units_join_to_the_text_and_decode_inverts_encode(transcript: str, several: list[str]) -> None:
    several = [label for label in several if unicodedata.is_normalized("NFC", label)]
    labels = ("_", " ", *dict.fromkeys(several))
    spelt = text.clean(transcript, labels)
    assert "".join(text.units(spelt, labels)) == spelt
    ids = text.encode(transcript, labels, unknown="drop_character")
    kept = text.decode(ids, labels)
    assert kept == " ".join(kept.split())
    if not text.unknown_characters(transcript, labels):
        assert kept == spelt


@given(MARKED)
def test_the_labels_of_transcripts_spell_them(transcript: str) -> None:
    labels = ("_", *sorted(text.characters([transcript, "न"])), "xyz")
    assert not text.unknown_characters(transcript, labels)


def test_marks_stay_with_their_letters_in_the_labels_of_transcripts():
    assert sorted(text.characters(["हिन्दी"])) == sorted(["हि", "न्", "दी"])
    assert sorted(text.characters(["Be\u0323\u0301", "é"])) == ["b", "é", "ẹ\u0301"]


def test_the_case_of_letters_follows_the_language():
    assert set(text.characters(["ISTANBUL Iki", "a"])) == set("istanbul k")
    assert set(text.characters(["KIS Kara"], language="tr")) == set("kıs ar")
    assert set(text.characters(["Straße"], language="de")) == set("straße")
