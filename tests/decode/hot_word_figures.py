"""Constructed recordings with and without hot words, and what a search finds in them.

    python tests/decode/hot_word_figures.py

The logits have the errors of a weak acoustic model: letters that sound alike are confused, letters are lost. Half of
the texts name one or two of the hot words, the others have words that resemble them. The default boost was chosen on
the recordings of another seed, ``TUNING``: python tests/decode/hot_word_figures.py 1
"""

import random
import sys
import time
from typing import NamedTuple

import torch

from ds2f import decode
from ds2f.config import BeamConfig
from ds2f.decode import HotWords
from ds2f.types import Logits

LABELS = "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
TUNING, TESTING = 1, 2  # seeds; the default boost is the highest that costs the others less than a point of WER
# Half of them are never said; some resemble usual words.
HOT_WORDS = (
    "KOWALSKI", "RUBOUT", "NEW YORK", "MARIE", "SCHWARZ", "PITTSBURGH", "AYESHA", "NGUYEN", "LEE", "SIOBHAN",
    "WARSAW CENTRAL", "IBUPROFEN", "O'BRIEN", "KUBERNETES", "JANE", "ZURICH", "METOPROLOL", "THE HAGUE", "XIAO", "ANN",
    "NOVAK", "ERASE", "NEWARK", "MARY", "SCHULZ", "PETERSBURG", "AISHA", "NOLAN", "LEIGH", "SHANNON",
    "WARSAW WEST", "IBERIA", "O'RYAN", "CUBERT", "JOAN", "MUNICH", "METFORMIN", "HANOVER", "SHAW", "ANNE",
)  # fmt: skip
SAID = HOT_WORDS[:20]
_TEXT = (
    "THE A TO OF AND IN IS IT YOU THAT HE WAS FOR ON ARE WITH AS HIS THEY BE AT ONE HAVE THIS FROM OR HAD BY BUT SOME "
    "WHAT THERE WE CAN OUT OTHER WERE ALL YOUR WHEN USE WORD HOW SAID AN EACH SHE WHICH DO THEIR TIME IF WILL WAY "
    "ABOUT MANY THEN THEM WOULD WRITE LIKE SO THESE HER LONG MAKE THING SEE HIM TWO HAS LOOK MORE DAY COULD GO COME "
    "DID NUMBER SOUND NO MOST PEOPLE MY OVER KNOW WATER THAN CALL FIRST WHO MAY DOWN SIDE BEEN NOW FIND NEW WORK PART "
    "TAKE GET PLACE MADE LIVE WHERE AFTER BACK LITTLE ONLY ROUND MAN YEAR CAME SHOW EVERY GOOD ME GIVE OUR UNDER NAME "
    "VERY THROUGH JUST FORM SENTENCE GREAT THINK SAY HELP LOW LINE MARRY RUB SHORE LEAN GAIN WARS SORE HEY "
)
USUAL = _TEXT.split()
# Said where no hot word is, and easily taken for one.
TEMPTING = (
    "NEW WORK", "MARRY", "LEA", "AN", "JOIN", "RUB OUT", "ERASED", "THE BAG", "SHOW", "NOLAND", "LEAN", "WARSAW",
    "PITTSBURG", "OH BRIAN", "SHORTS", "RICH", "JAM", "MARIA", "SCHWARTZ", "WIN",
)  # fmt: skip
_ALIKE = ("AEU", "EIY", "OUA", "BPV", "DTG", "FVW", "CKGQX", "SZCX", "MNL", "JGYH", "LRW", "H'A")


class Utterance(NamedTuple):
    """A constructed recording."""

    text: str
    logits: torch.Tensor  # [T, V]


def utterances(seed: int, count: int) -> list[Utterance]:
    """Constructed recordings; those with even numbers name hot words, the others tempt to hear one."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        words = [draw.choice(USUAL) for _ in range(draw.randint(4, 9))]
        for _ in range(draw.randint(1, 2)):
            words.insert(draw.randint(0, len(words)), draw.choice(TEMPTING if number % 2 else SAID))
        text = " ".join(words)
        found.append(Utterance(text, torch.tensor([row for label in text for row in _frames(label, draw)])))
    return found


def _frames(label: str, draw: random.Random) -> list[list[float]]:
    """Frames of a character: one in which it peaks, and blanks."""
    rows = [[draw.gauss(0, 1.2) for _ in LABELS] for _ in range(draw.randint(2, 3))]
    for row in rows:
        row[0] += 12.0
    peak, own = rows[0], LABELS.index(label)
    alike = sorted({each for group in _ALIKE if label in group for each in group if each != label})
    chance = draw.random()
    confused, lost = chance < 0.12 and bool(alike), chance > 0.96
    peak[0] = 12.0 if lost else draw.gauss(2.0, 2.0)
    for other in alike:
        peak[LABELS.index(other)] = draw.gauss(4.0, 1.5)
    if confused:
        peak[LABELS.index(draw.choice(alike))] = 12.0
    peak[own] = draw.gauss(6.0, 2.5) if confused or lost else 12.0
    return rows


class Figures(NamedTuple):
    """What a search found."""

    recall: float  # hot words found of those said, percent
    false_alarms: int  # hot words found and not said, in the recordings without
    substituted: int  # likewise, in the recordings with other hot words
    wer: float  # percent, of the recordings without hot words
    seconds: float  # of processor time

    @classmethod
    def heading(cls) -> str:
        return "recall %  false alarms  in others  WER %  seconds"

    def __str__(self) -> str:
        return (
            f"{self.recall:8.1f}  {self.false_alarms:12d}  {self.substituted:9d}  {self.wer:5.1f}  {self.seconds:7.2f}"
        )


def measure(spoken: list[Utterance], cfg: BeamConfig, hot_words: HotWords | None) -> Figures:
    """Searches the recordings and counts."""
    from ds2f import metrics

    said = met = errors = words = 0
    alarms = [0, 0]
    begun = time.process_time()
    for number, (text, values) in enumerate(spoken):
        logits = Logits(values[None], torch.tensor([len(values)]))
        heard = decode.beam(logits, LABELS, cfg=cfg, hot_words=hot_words)[0][0].text
        for phrase in HOT_WORDS:
            there, found = (f" {each} ".count(f" {phrase} ") for each in (text, heard))
            said, met = said + there, met + min(there, found)
            alarms[number % 2] += max(0, found - there)
        if number % 2:
            counts = metrics.count_errors(text, heard)
            errors, words = errors + counts.word_errors, words + counts.words
    return Figures(100 * met / said, alarms[1], alarms[0], 100 * errors / words, time.process_time() - begun)


def main() -> None:
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else TESTING
    spoken = utterances(seed, int(sys.argv[2]) if len(sys.argv) > 2 else 60)
    frames = sum(len(each.logits) for each in spoken)
    words = sum(len(each.text.split()) for each in spoken[1::2])
    print(f"{len(spoken)} recordings, {frames} frames; {words} words in those without hot words")
    print(f"{'search':34}  {Figures.heading()}")
    cfg = BeamConfig(decoder="beam")
    print(f"{'no hot words':34}  {measure(spoken, cfg, None)}", flush=True)
    for boost in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        hot = decode.make_hot_words(HOT_WORDS, LABELS, boost=boost)
        print(f"{f'boost {boost:g}':34}  {measure(spoken, cfg, hot)}", flush=True)
    hot = decode.make_hot_words(HOT_WORDS, LABELS)
    for size, tokens in ((25, 12), (50, 12)):
        sized = BeamConfig(decoder="beam", beam_size=size, beam_size_token=tokens)
        name = f"default boost, beam {size}, {tokens} labels"
        print(f"{name:34}  {measure(spoken, sized, hot)}", flush=True)


if __name__ == "__main__":
    main()
