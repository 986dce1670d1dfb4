"""Tests of the forms in which manifests are written: every form gives the same utterances, to other programs too."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds2f.data import manifest_forms, manifests
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError

RATE, SECONDS = 8000, 2.0
# Names and texts that could be taken for something else.
NAMES = (
    "a.wav",
    "b c.wav",
    'd"e.wav',
    "f,g.wav",
    "~h.wav",
    "ü.wav",
    "deep/er/i.wav",
    "; j.wav",
    "text.wav",
    "stereo.wav",
)
LETTERS = st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\"',;|\t ~\ufeff")
TEXTS = st.text(LETTERS, max_size=12).map(lambda text: " ".join(text.split()))
FILES = {"jsonl": "m.jsonl", "csv": "m.csv", "tsv": "m.tsv", "json": "m.json", "lhotse": "m.jsonl.gz"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("forms")
    for name in NAMES:
        path = found / "sounds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = 2 if name.startswith("stereo") else 1
        soundfile.write(path, np.full((int(SECONDS * RATE), channels), 0.25), RATE)
    return found


def spans() -> st.SearchStrategy[tuple[float | None, float]]:
    """Beginnings and lengths: of the whole recording, or of parts, in milliseconds."""
    parts = st.tuples(st.integers(0, 1000), st.integers(100, 1000)).map(lambda part: (part[0] / 1000, part[1] / 1000))
    return st.just((None, SECONDS)) | parts


ROWS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        TEXTS.filter(bool),
        spans(),
        st.sampled_from(["", "ann", "7", "Bob B."]),
        st.sampled_from(["", "de"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: (row[0], row[1], row[2]),
)


def utterances_of(rows, folder: Path) -> list[Utterance]:
    return [
        Utterance(place, folder / "sounds" / name, text, duration, start, speaker, lang)
        for place, (name, text, (start, duration), speaker, lang) in enumerate(rows)
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_forms_one_after_another_give_the_same_utterances(rows, folder: Path):
    given_ones = found = utterances_of(rows, folder)
    for number, form in enumerate(("csv", "json", "jsonl", "lhotse", "tsv", "csv")):
        path = folder / f"{number}_{FILES[form]}"  # a folder above the recordings
        manifest_forms.write_form(path, form, found, [each.transcript for each in found])
        found = [each._replace(duration=round(each.duration, 9)) for each in manifests.read(path)]
        assert found == given_ones, form


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS)
def test_two_columns_hold_whole_recordings_or_refuse(rows, folder: Path):
    given_ones = [
        each._replace(start=None, duration=SECONDS, speaker="", lang="", id=0) for each in utterances_of(rows, folder)
    ]
    given_ones = [each._replace(id=place) for place, each in enumerate(dict.fromkeys(given_ones))]
    path = folder / "two.csv"
    try:
        manifest_forms.write_form(path, "two_columns", given_ones, [each.transcript for each in given_ones])
    except InputError:
        assert not path.exists()
    else:
        assert manifests.read(path) == given_ones


def test_two_columns_name_the_files_of_transcripts(folder: Path, tmp_path: Path):
    found = utterances_of([("a.wav", "YES", (None, SECONDS), "", ""), ("ü.wav", "NO", (None, SECONDS), "", "")], folder)
    texts = manifest_forms.written_texts(found, tmp_path / "txt")
    manifest_forms.write_form(tmp_path / "m.csv", "two_columns", found, texts)
    assert (tmp_path / "m.csv").read_text() == (
        f"{folder}/sounds/a.wav,txt/00000000.txt\n{folder}/sounds/ü.wav,txt/00000001.txt\n"
    )
    assert manifests.read(tmp_path / "m.csv") == found
    manifest_forms.write_form(tmp_path / "m.json", "json", found, texts)
    content = json.loads((tmp_path / "m.json").read_text())  # as deepspeech.pytorch joins them
    assert [(Path(content["root_path"]) / each["transcript_path"]).read_text() for each in content["samples"]] == [
        "YES\n",
        "NO\n",
    ]
    with pytest.raises(InputError, match="is there already"):
        manifest_forms.written_texts(found, tmp_path / "txt")


def test_a_part_has_no_place_in_two_columns(folder: Path):
    found = utterances_of([("a.wav", "YES", (0.5, 1.0), "", "")], folder)
    with pytest.raises(InputError, match=r"a\.wav: a part, from 0\.5 s on"):
        manifest_forms.write_form(folder / "part.csv", "two_columns", found, ["YES"])


def test_what_a_form_would_give_back_otherwise_is_refused(folder: Path):
    # All texts end as names of files do, so that a reader takes them for names.
    found = utterances_of([("a.wav", "readme.txt", (None, SECONDS), "", "")], folder)
    for form in ("two_columns", "csv", "jsonl"):
        with pytest.raises(InputError, match=r"cannot hold these rows|No such file"):
            manifest_forms.write_form(folder / "names", form, found, ["readme.txt"])
        assert not (folder / "names").exists()


def test_nemos_fields_are_written_as_documented(folder: Path):
    """docs.nvidia.com/nemo-framework, ASR datasets: audio_filepath, duration and text in each line, offset optional."""
    found = utterances_of([("a.wav", "JA", (None, SECONDS), "ann", "de"), ("a.wav", "DA", (0.25, 0.5), "", "")], folder)
    manifest_forms.write_form(folder / "nemo.jsonl", "jsonl", found, [])
    lines = [json.loads(line) for line in (folder / "nemo.jsonl").read_text().splitlines()]
    assert lines == [
        {"audio_filepath": "sounds/a.wav", "duration": 2.0, "text": "JA", "speaker": "ann", "lang": "de"},
        {"audio_filepath": "sounds/a.wav", "offset": 0.25, "duration": 0.5, "text": "DA"},
    ]


def test_lhotses_own_package_reads_the_cuts_and_hears_the_same(folder: Path):
    lhotse = pytest.importorskip("lhotse")
    ramp = folder / "ramp.wav"
    soundfile.write(ramp, np.arange(RATE) / RATE, RATE, subtype="FLOAT")
    rows = [("../ramp.wav", "ALL", (None, 1.0), "ann", "de"), ("../ramp.wav", "PART", (0.25, 0.5), "", "")]
    rows += [("stereo.wav", "BOTH", (None, SECONDS), "", "")]
    manifest_forms.write_form(folder / "cuts.jsonl.gz", "lhotse", utterances_of(rows, folder), [])
    whole, part, stereo = lhotse.CutSet.from_file(folder / "cuts.jsonl.gz")
    for cut in (whole, part, stereo):
        lhotse.validate(cut)
    assert (part.supervisions[0].text, whole.supervisions[0].speaker, whole.supervisions[0].language) == (
        "PART",
        "ann",
        "de",
    )
    np.testing.assert_allclose(part.load_audio()[0], np.arange(RATE // 4, 3 * RATE // 4) / RATE, atol=1e-6)
    assert whole.load_audio().shape == (1, RATE)
    assert stereo.load_audio().shape == (2, SECONDS * RATE)


def test_lhotses_own_cuts_are_read(folder: Path):
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(folder / "sounds" / "a.wav")
    spoken = [
        lhotse.SupervisionSegment(f"s{index}", recording.id, start, 0.5, text=text, speaker="ann", language="de")
        for index, (start, text) in enumerate([(0.25, "one"), (1.0, "two  words")])
    ]
    both = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings([recording]), lhotse.SupervisionSet.from_segments(spoken)
    )
    apart = both.trim_to_supervisions(keep_overlapping=False).to_eager()
    for name in ("own.jsonl", "own.jsonl.gz"):
        apart.to_file(folder / name)
        found = manifests.read(folder / name)
        assert [tuple(each)[1:] for each in found] == [
            (folder / "sounds" / "a.wav", "one", 0.5, 0.25, "ann", "de"),
            (folder / "sounds" / "a.wav", "two words", 0.5, 1.0, "ann", "de"),
        ]
    both.to_file(folder / "both.jsonl")
    faster = apart.perturb_speed(1.1)
    faster.to_file(folder / "faster.jsonl")
    mixed = lhotse.CutSet.from_cuts([apart[0].append(apart[1]), apart[0].pad(3.0)])
    mixed.to_file(folder / "mixed.jsonl")
    for name, reason in (("both", "2 supervisions"), ("faster", "transforms"), ("mixed", "'MixedCut', which mixes")):
        with pytest.raises(InputError, match=reason):
            manifests.read(folder / f"{name}.jsonl")
    lhotse.SupervisionSet.from_segments(spoken).to_file(folder / "spoken.jsonl.gz")
    with pytest.raises(InputError, match="join them to cuts"):
        manifests.read(folder / "spoken.jsonl.gz")


def test_a_packed_manifest_is_no_bomb_and_no_half(folder: Path):
    from ds2f.config import DataConfig

    (folder / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * (8 << 20)))
    with pytest.raises(InputError, match="unpacks to more than 1,000,000 bytes"):
        manifests.read(folder / "bomb.jsonl.gz", cfg=DataConfig(max_manifest_bytes=1_000_000))
    line = json.dumps({"audio_filepath": "sounds/a.wav", "text": "A"}).encode()
    (folder / "half.jsonl.gz").write_bytes(gzip.compress(line)[:-6])
    with pytest.raises(InputError, match="cut short or damaged"):
        manifests.read(folder / "half.jsonl.gz")
