"""ARPA files as language models: what is read from them, and what is refused."""

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
    with pytest.raises(InputError, match=r"bad\.arpa"):
        open_language_model(path, "_AB ")


def test_kenlms_own_refusal_is_passed_on(tmp_path):
    path = tmp_path / "bad.arpa"
    path.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\tA\n-1\tB\n\n\\end\\\n")
    with pytest.raises(InputError, match=r"bad\.arpa: KenLM cannot read it"):
        open_language_model(path, "_AB ")
