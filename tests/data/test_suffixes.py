"""Tests of the suffixes of recordings, against the formats that soundfile itself names."""

from pathlib import Path

import pytest
import soundfile

from ds2f.data import suffixes


@pytest.mark.parametrize("name", sorted(soundfile.available_formats()))
def test_every_format_of_soundfile_but_headerless_samples_and_matrices_is_a_recording(name: str) -> None:
    assert suffixes.is_recording(Path(f"a.{name}")) == (name not in ("RAW", "MAT4", "MAT5"))


def test_no_suffix_is_both_readable_and_to_be_converted() -> None:
    assert not suffixes.READABLE & (suffixes.CONVERTIBLE | suffixes.TRANSCRIPTS)
