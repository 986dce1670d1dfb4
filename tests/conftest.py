"""What several test files share: launchers to run, and a corpus of tones that takes no time to make."""

import numpy as np
import pytest
import soundfile
from commands import commands

RATE = 16000


def write_tones(folder, name, text, seed):
    """One utterance: a tone per character, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    pieces = [
        np.sin(2 * np.pi * (300 + 60 * (ord(character) - 32)) * np.arange(int(0.12 * RATE)) / RATE)
        for character in text
    ]
    samples = 0.3 * np.concatenate(pieces) + 0.01 * generator.standard_normal(len(text) * int(0.12 * RATE))
    soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="PCM_16")
    (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return f"{name}.wav,{name}.txt\n"


@pytest.fixture(scope="session")
def tone_corpus(tmp_path_factory):
    """A data path with the manifests of a corpus called ``tones``: 10 training, 3 validation, 3 test utterances."""
    folder = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 3), ("test", 3)):
        rows = []
        for index in range(count):
            text = "".join(generator.choice(list("ABC"), size=3 + index % 4))
            rows.append(write_tones(folder, f"{split}{index}", text, index))
        (folder / f"tones_{split}_manifest.csv").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def launch():
    """Runs a launcher, given its flags and ``folder``."""
    return commands().run
