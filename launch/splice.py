"""Makes more training utterances of a run's own: python -m launch.splice --run_dir=runs/base --output=data/spliced."""

import random
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import decoding, flags

if TYPE_CHECKING:
    from ds2f.config import Config

_MOST_WRONG = 20  # % of an utterance's characters; where more are, the model does not know where the words are

FLAGS = absl_flags.FLAGS
flags.define(only=("data_path", "run_dir", "device", "apex"))
flags.define_speaker()
absl_flags.DEFINE_string("output", "", "Folder to write, for --data.train_manifest: its utterances, old and new.")
absl_flags.DEFINE_integer("copies", 6, "New utterances for each old one that is cut.", lower_bound=1)
absl_flags.DEFINE_string(
    "which", "best", "Which checkpoint finds the words: best, last, its number, or best:5 or last:5 for a mean."
)
absl_flags.DEFINE_integer("seed", 0, "Seed of what is drawn; the same seed and model make the same.", lower_bound=0)


def main(_: list[str]) -> None:
    """Cuts each speaker's training utterances where the run's model finds pauses, and joins the pieces anew."""
    output, run_dir, speaker = Path(FLAGS.output), Path(FLAGS.run_dir), flags.speaker()
    if not FLAGS.run_dir:
        raise InputError("--run_dir is missing: the run whose model finds the words in its training utterances")
    if not FLAGS.output or output.exists() or not output.absolute().parent.is_dir():
        raise InputError(f"--output={FLAGS.output}: give a new folder in one that exists, such as data/spliced")

    from ds2f.checkpoint import load_config
    from ds2f.config import manifest_path
    from ds2f.data import audio, manifests, splicing
    from ds2f.data.corpora import layout

    cfg = flags.config_from_flags(load_config(run_dir))
    rate = cfg.spect.sample_rate
    run, heard = _heard(cfg, run_dir)
    copied = len(manifests.read(manifest_path(cfg, "train")))  # training adds the rows of data.train_on_val itself
    if not heard:
        raise InputError(
            f"{run_dir}: there is no training utterance of which its model gets {100 - _MOST_WRONG} % of the "
            "characters right; train on"
        )

    unfinished = output.with_name(f".partial_{output.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    write = partial(layout.write_pair, unfinished, sample_rate=rate)
    speakers: dict[str, list[list[splicing.Piece]]] = {}
    stems = Counter(utterance.audio.stem for utterance in run.split.utterances[:copied])
    for row, utterance in enumerate(run.split.utterances):
        samples, stem = audio.load(utterance.audio, sample_rate=rate).samples, utterance.audio.stem
        if row < copied:
            write(stem if stems[stem] == 1 else f"{stem}-{row}", utterance.transcript, layout.as_pcm(samples))
        if row in heard:
            pieces = splicing.cut(samples, run.split.references[row], heard[row], sample_rate=rate)
            speakers.setdefault(_named(utterance.audio, speaker), []).append(pieces)
    made, seconds, draw = 0, 0.0, random.Random(FLAGS.seed)
    for name, recordings in sorted(speakers.items()):
        for new in splicing.recombined(recordings, copies=FLAGS.copies, draw=draw, sample_rate=rate):
            write(f"spliced{made}-{name}", new.text, layout.as_pcm(new.samples))
            made, seconds = made + 1, seconds + len(new.samples) / rate
    unfinished.rename(output)
    print(
        f"{output}: {copied:,} utterances, and {made:,} ({seconds / 60:.0f} min) made of "
        f"{len(heard):,}, by {len(speakers):,} speakers. Train with --data.train_manifest={output}"
        + " --data.train_on_val"
        * cfg.data.train_on_val
    )


def _heard(cfg: "Config", run_dir: Path) -> tuple[decoding.Opened, dict[int, list[float]]]:
    """The run with its training set, and when each character begins, by the row of each utterance heard well enough.

    Seconds, by the best path that spells the transcript.
    """
    from ds2f import decode
    from ds2f.metrics import count_errors
    from ds2f.runner.telemetry import terminal
    from ds2f.steps import eval_step

    run = decoding.open_run(cfg, run_dir, split="train", which=FLAGS.which, console=terminal())
    labels, frame = cfg.model.labels, cfg.model.time_stride * cfg.spect.window_stride
    heard = {}
    for batch in run.loader.epoch():
        placed = run.backend.place(batch)
        logits, _ = eval_step(run.params, run.stats, placed, cfg=cfg.model, policy=run.policy)
        scores = logits.values.float().cpu().numpy()
        for index, (row, said) in enumerate(zip(batch.ids.tolist(), decode.greedy(logits, labels), strict=True)):
            text = run.split.references[row]
            if count_errors(text, said.text).cer > _MOST_WRONG:
                continue
            tokens = [labels.index(character) for character in text]
            starts = decode.align(scores[index, : logits.lengths[index]], tokens, blank=cfg.model.blank)
            if starts:
                heard[row] = [start * frame for start in starts]
    return run, heard


def _named(audio: Path, speaker: re.Pattern[str]) -> str:
    match = speaker.search(audio.as_posix())
    if not match:
        raise InputError(f"{audio}: --speaker={speaker.pattern} finds no speaker in this path; give another pattern")
    return match[1]


if __name__ == "__main__":
    flags.run(main)
