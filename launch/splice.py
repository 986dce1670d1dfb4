"""Makes new training utterances from pieces of others: python -m launch.splice --run_dir=RUN --output=data/new."""

import random
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from ds2f.errors import InputError
from ds2f.text import shown
from launch import decoding, flags, next_steps, progress_bars

if TYPE_CHECKING:
    from ds2f.config import Config

_HIGHEST_CER = 20  # percent; above it, the word times of the model are not reliable

FLAGS = absl_flags.FLAGS
flags.define(only=("data_path", "run_dir", "device", "apex.opt_level", "apex.dtype", "data.max_recording_seconds"))
decoding.define_speaker()
decoding.define_which()
absl_flags.DEFINE_string(
    "output", "", "New folder for the old and the new utterances. Train on it with --data.train_manifest."
)
absl_flags.DEFINE_integer("copies", 6, "New utterances per utterance that is cut.", lower_bound=0)
absl_flags.DEFINE_float(
    "joined",
    0.0,
    "Also so many minutes of recordings of several whole utterances, without pauses, for long recordings.",
    lower_bound=0.0,
)
absl_flags.DEFINE_float(
    "longest", 25.0, "Longest of those recordings, seconds: the longest piece that is heard at once.", 1.0
)
absl_flags.DEFINE_integer(
    "seed", 0, "Seed of the draws; the same seed and model give the same utterances.", lower_bound=0
)


def main(_: list[str]) -> None:
    """Cuts training utterances at pauses that the model finds, and joins pieces of a speaker to new utterances."""
    output, run_dir, speaker = Path(FLAGS.output), decoding.run_dir(), decoding.speaker()
    if not FLAGS.output or output.exists() or not output.absolute().parent.is_dir():
        raise InputError(f"--output={FLAGS.output}: give a new folder in one that exists, such as data/spliced")

    from ds2f.runner import output_lease

    with output_lease.hold(output.parent, output.name, flag="--output", what="a splicing"):
        _splice(output, run_dir, speaker)


def _splice(output: Path, run_dir: Path, speaker: re.Pattern[str]) -> None:
    """Writes the folder of old and new utterances."""
    from ds2f.checkpoint import exported, load_config
    from ds2f.data import audio_parts, manifests, splicing
    from ds2f.data.corpora import layout
    from ds2f.data.manifest_paths import manifest_path

    cfg = flags.config_from_flags(load_config(run_dir))
    rate = cfg.spect.sample_rate
    run, starts = _character_starts(cfg, run_dir)
    copied = len(
        manifests.read(manifest_path(cfg, "train"), cfg=cfg.data)
    )  # not the rows of data.train_on_val, which training adds
    if not starts:
        raise InputError(
            f"{run_dir}: its model reaches a CER of {_HIGHEST_CER} % on no training utterance; train for more epochs"
        )

    unfinished = output.with_name(f".partial_{output.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    write = partial(layout.write_pair, unfinished, sample_rate=rate)
    speakers: dict[str, list[list[splicing.Piece]]] = {}
    wholes: list[splicing.Piece] = []
    stems = Counter(utterance.audio.stem for utterance in run.split.utterances[:copied])
    utterances = progress_bars.counted(run.split.utterances, "cutting", len(run.split.utterances))
    for row, utterance in enumerate(utterances):
        samples, stem = (
            audio_parts.of(utterance, sample_rate=rate, max_seconds=cfg.data.max_recording_seconds).samples,
            utterance.audio.stem,
        )
        if row < copied:
            write(stem if stems[stem] == 1 else f"{stem}-{row}", utterance.transcript, layout.as_pcm(samples))
        if FLAGS.joined:
            wholes.append(splicing.Piece(run.split.references.get(row, ""), samples))
        if row in starts:
            pieces = splicing.cut(samples, run.split.references[row], starts[row], sample_rate=rate)
            speakers.setdefault(_speaker_of(utterance.audio, speaker), []).append(pieces)
    made, seconds, draw = 0, 0.0, random.Random(FLAGS.seed)
    for name, recordings in sorted(speakers.items()):
        for new in splicing.recombined(recordings, copies=FLAGS.copies, draw=draw, sample_rate=rate):
            write(f"spliced{made}-{name}", new.text, layout.as_pcm(new.samples))
            made, seconds = made + 1, seconds + len(new.samples) / rate
    strung = splicing.strung(wholes, seconds=60 * FLAGS.joined, longest=FLAGS.longest, draw=draw, sample_rate=rate)
    count = 0
    for count, new in enumerate(strung, start=1):
        write(f"joined{count}", new.text, layout.as_pcm(new.samples))
    if output.exists():
        raise InputError(f"--output={output}: another command has made it in the meantime; give another folder")
    unfinished.rename(output)
    name_shown = shown(str(output))
    print(
        f"{name_shown}: {copied:,} utterances, and {made:,} ({seconds / 60:.0f} min) made of "
        f"{len(starts):,}, by {len(speakers):,} speakers{f', and {count:,} recordings of several' if count else ''}"
    )
    more = ["--data.train_on_val"] * cfg.data.train_on_val
    settings = [f"--flagfile={run_dir}/flags.txt"] * (run_dir / "flags.txt").exists()  # an export has none
    again = ("train", *settings, f"--data.train_manifest={output}", *more)
    print(shown(next_steps.text((*again, f"--run_dir={exported.folder_of(run_dir)}-{output.name}")), lines=True))


def _character_starts(cfg: "Config", run_dir: Path) -> tuple[decoding.OpenedRun, dict[int, list[float]]]:
    """The run with its training split, and by row of the manifest the start of each character, in seconds.

    Starts are those of the best CTC path that spells the reference. Utterances above ``_HIGHEST_CER`` are left out.
    """
    from ds2f import decode, text
    from ds2f.metrics import count_errors
    from ds2f.runner.splits import Split
    from ds2f.runner.telemetry import terminal
    from ds2f.steps import eval_step

    run = decoding.open_run(cfg, run_dir, Split.read("train", cfg), which=FLAGS.which, console=terminal())
    labels, frame = cfg.model.labels, cfg.model.time_stride * cfg.spect.window_stride
    found = {}
    for batch in progress_bars.counted(run.loader.epoch(), "finding the words", run.loader.steps):
        placed = run.backend.place(batch)
        logits, _ = eval_step(run.params, run.stats, placed, cfg=cfg.model, policy=run.policy)
        scores = logits.values.float().cpu().numpy()
        for index, (row, best) in enumerate(zip(batch.ids.tolist(), decode.greedy(logits, labels), strict=True)):
            reference = run.split.references[row]
            if count_errors(reference, best.text).cer > _HIGHEST_CER:
                continue
            tokens = [labels.index(unit) for unit in text.units(reference, labels)]
            starts = decode.align(scores[index, : logits.lengths[index]], tokens, blank=cfg.model.blank)
            if starts:
                found[row] = [start * frame for start in starts]
    return run, found


def _speaker_of(audio: Path, speaker: re.Pattern[str]) -> str:
    match = speaker.search(audio.as_posix())
    if not match:
        raise InputError(f"{audio}: --speaker={speaker.pattern} finds no speaker in this path; give another pattern")
    return match[1]


if __name__ == "__main__":
    flags.run(main, output_matters=False)
