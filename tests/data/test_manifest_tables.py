"""Tests of CSV and TSV: texts inline, header rows, separators, quotes."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ds2f.data import manifest_forms, manifests
from ds2f.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings of 0.1 and 0.2 seconds, and the transcripts of both."""
    for index in (1, 2):
        soundfile.write(tmp_path / f"{index}.wav", np.ones(1600 * index) / 2, 16000)
        (tmp_path / f"{index}.txt").write_text(f"WORDS {index}\n")
    return tmp_path


def read(folder: Path, content: str, name: str = "m.csv") -> list[tuple[str, str]]:
    (folder / name).write_text(content, encoding="utf-8", newline="")
    return [(each.audio.name, each.transcript) for each in manifests.read(folder / name)]


@pytest.mark.parametrize(
    "content",
    [
        '1.wav,Hello there\n2.wav,"Well, no"\n',
        "1.wav\tHello there\n2.wav\tWell, no\n",
        "1.wav;Hello there\n2.wav;Well, no\n",
        "1.wav|Hello there\n2.wav|Well, no\n",
        'audio,text\n1.wav,Hello there\n2.wav,"Well, no"\n',
        "wav\tduration\ttranscript\r\n1.wav\t0.1\tHello there\r\n2.wav\t0.2\tWell, no\r\n",
        "client_id\tpath\tsentence\tup_votes\nx\t1.wav\tHello there\t2\ny\t2.wav\tWell, no\t0\n",
        "Text;Speaker;Audio_FilePath\nHello there;ann;1.wav\nWell, no;bob;2.wav\n",
        '\ufeff"wav_filename","wav_filesize","transcript"\n"1.wav","44","Hello there"\n"2.wav","44","Well, no"\n',
        "file_name,transcription\n1.wav,Hello there\n\n2.wav,'Well\n".replace("'Well", '"Well, no"'),
    ],
)
def test_texts_inline_are_read_whatever_separates_and_names_the_columns(folder: Path, content: str):
    assert read(folder, content) == [("1.wav", "Hello there"), ("2.wav", "Well, no")]


@pytest.mark.parametrize(
    "content",
    [
        "1.wav,1.txt\n2.wav,2.txt\n",
        "wav,txt\n1.wav,1.txt\n2.wav,2.txt\n",
        "audio\ttranscript\n1.wav\t1.txt\n2.wav\t2.txt\n",
    ]
    + ["transcript_path,audio_path\n1.txt,1.wav\n2.txt,2.wav\n"],
)
def test_names_of_transcripts_are_followed_in_any_column(folder: Path, content: str):
    assert read(folder, content) == [("1.wav", "WORDS 1"), ("2.wav", "WORDS 2")]


def test_texts_that_look_like_names_of_missing_files_are_no_texts(folder: Path):
    with pytest.raises(InputError, match=r"2 of 2 rows.*(?s:.*)gone/1\.txt: No such file"):
        read(folder, "1.wav,gone/1.txt\n2.wav,gone/2.txt\n")


def test_an_empty_text_is_a_transcript_and_a_missing_name_is_a_problem(folder: Path):
    assert read(folder, "1.wav,Hello\n2.wav,\n") == [("1.wav", "Hello"), ("2.wav", "")]
    assert read(folder, "audio,text\n1.wav,\n2.wav,\n") == [("1.wav", ""), ("2.wav", "")]
    for content in ("1.wav,1.txt\n2.wav,\n", "1.wav,\n2.wav,\n"):
        with pytest.raises(InputError, match=r"m\.csv:2: names no transcript"):
            read(folder, content)


def test_quotes_in_tsv_are_text_unless_they_enclose_a_cell(folder: Path):
    assert read(folder, '1.wav\t"Hello," she said\n2.wav\tNo "\n', "m.tsv") == [
        ("1.wav", '"Hello," she said'),
        ("2.wav", 'No "'),
    ]
    assert read(folder, '1.wav\t"Hello\tthere"\n2.wav\tNo\n', "m.tsv")[0] == ("1.wav", "Hello there")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("audio,words\n1.wav,Hello\n", r"m\.csv:1: no column of transcripts \(call it 'text'\) among audio, words;"),
        ("id,text\n1,Hello\n", r"m\.csv:1: no column of recordings \(call it 'audio_filepath'\) among id, text;"),
        ("1.wav,Hello, there\n", r"m\.csv:1: 3 column\(s\).*double quotes.*name the columns in a first row"),
        ("audio,text\n1.wav,Hello, there\n", r"m\.csv:2: 3 columns, the header names 2; .*double quotes"),
        ("audio,text,duration\n1.wav,Hello,long\n", r"m\.csv:2: duration: 'long' is not a number of seconds"),
        ("audio,text\n,Hello\n", r"m\.csv:2: needs a recording"),
        ("audio,text,start,end\n1.wav,Hello,0.5,0.25\n", r"m\.csv:2: ends at 0\.25 s, before it begins at 0\.5 s"),
        ("audio,text,offset\n1.wav,Hello,1e300\n", r"the row says 1e\+300 s; copy"),
    ],
)
def test_a_table_that_cannot_be_read_is_told_of_with_the_remedy(folder: Path, content: str, message: str):
    with pytest.raises(InputError, match=message):
        read(folder, content)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("αρχείο;ομιλητής;κείμενο\n1.wav;Ann;Μέθη, ζω\n2.wav;Bob;Δώδεκα\n", "αρχείο, ομιλητής, κείμενο"),
        ("mluvčí,nahrávka,přepis\nAnn,1.wav,Ahoj\n", "mluvčí, nahrávka, přepis"),
        ("Plik\tTekst\r\n1.wav\tTak; nie, może\r\n", "plik, tekst"),
        ('"ses"|"metin"\n1.wav|"evet|hayat"\n', "ses, metin"),
    ],
)
def test_a_header_in_other_words_is_told_of_once_with_its_names(folder: Path, content: str, names: str):
    with pytest.raises(InputError) as caught:
        read(folder, content)
    message = str(caught.value)
    assert message.startswith(f"{folder}/m.csv:1: no column of recordings")
    assert f"and no column of transcripts (call it 'text') among {names}; launch.prepare takes other" in message


@pytest.mark.parametrize("content", ["1.aac,Hello\n2.wav,Yes\n", "sub/1,Hello\n2.wav,Yes\n", "only\n2.wav,Yes\n"])
def test_a_first_row_that_is_no_recording_is_still_a_row(folder: Path, content: str):
    with pytest.raises(InputError, match="1 of 2 rows cannot be used"):
        read(folder, content)


@pytest.mark.parametrize("subfolder", ["clips", "wavs"])
def test_recordings_are_found_in_the_usual_subfolders(folder: Path, subfolder: str):
    (folder / subfolder).mkdir()
    for index in (1, 2):
        (folder / f"{index}.wav").rename(folder / subfolder / f"{index}.wav")
    assert read(folder, "path\tsentence\n1.wav\tOne\n2.wav\tTwo\n", "train.tsv") == [("1.wav", "One"), ("2.wav", "Two")]


@pytest.mark.parametrize("spelling", ["~/corpus/1.wav,Hello\n", "~/corpus/1.wav,~/corpus/1.txt\n"])
def test_a_tilde_in_a_row_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, spelling: str):
    (folder / "corpus").mkdir()
    for name in ("1.wav", "1.txt"):
        (folder / name).rename(folder / "corpus" / name)
    monkeypatch.setenv("HOME", str(folder))
    assert read(folder, spelling)[0][1] in ("Hello", "WORDS 1")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_saved_as_unicode_text_is_read(folder: Path, encoding: str):
    (folder / "m.txt").write_text("1.wav\tÇa va ?\r\n", encoding=encoding, newline="")
    assert [each.transcript for each in manifests.read(folder / "m.txt")] == ["Ça va ?"]


def test_a_text_that_is_not_utf_8_is_a_problem_of_its_row(folder: Path):
    (folder / "m.csv").write_bytes("1.wav,Hello\n2.wav,Café\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"1 of 2 rows.*(?s:.*)m\.csv:2: the text is not UTF-8; save the manifest"):
        manifests.read(folder / "m.csv")


def test_a_speaker_that_is_not_utf_8_is_escaped_and_can_be_written_in_every_form(folder: Path):
    (folder / "m.jsonl").write_text(
        '{"audio_filepath": "1.wav", "text": "a", "speaker": "b\\ud800", "lang": "\\udfff"}\n'
    )
    (folder / "m.csv").write_bytes(b"audio,text,speaker\n1.wav,a,M\xfcller\n")
    for name, speaker in (("m.jsonl", "b\\ud800"), ("m.csv", "M\\udcfcller")):
        found = manifests.read(folder / name)
        assert [each.speaker for each in found] == [speaker]
        for form in ("jsonl", "csv", "tsv", "lhotse"):
            manifest_forms.write_form(folder / f"{form}.{form}", form, found, ["a"])
