"""Characters, words and widths of texts in several scripts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich import cells

from ds2f import scripts

MIXED = st.text(alphabet="ABz 打开灯カタひらя한글", max_size=20)


@given(MIXED)
def test_words_lose_no_character_and_agree_with_spaces_elsewhere(text):
    found = scripts.words(text)
    assert "".join(found) == "".join(text.split())
    assert all(found)
    if not set(text) & set("打开灯カタひら"):
        assert found == text.split()
    chinese = "".join(each for each in text if each in "打开灯")
    assert scripts.words(chinese) == list(chinese)


@given(st.text(alphabet="ABz 打开灯カタひя한글ａ。", max_size=20))
def test_a_texts_width_is_that_of_terminals(text):
    assert scripts.width(text) == cells.cell_len(text)  # rich has tables of its own


@pytest.mark.parametrize(
    ("text", "expected"),
    [("हिन्दी", 3), ("e\u0301e", 2), ("\u0301a", 2), (" \u0301", 2), ("क\u094d\u200dष", 2), ("AB", 2), ("", 0)],
)
def test_marks_and_joiners_belong_to_the_letter_before_them(text, expected):
    assert len(scripts.clusters(text)) == expected
    assert "".join(scripts.clusters(text)) == text
