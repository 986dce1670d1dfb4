"""Sets with recordings of any length: long ones are cut in pauses, as ``launch.transcribe`` cuts them.

The loader reads utterances whole, and a batch of hours fits into no memory. Recordings up to the limit of a piece go
through the loader, longer ones through the ``Recognizer``.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from absl import flags as absl_flags

from ds2f.errors import InputError
from launch import cutting, decoding, progress_bars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from ds2f.config import Config
    from ds2f.decode import Decoder
    from ds2f.inference import Transcript
    from ds2f.inference.confidence import Calibration
    from ds2f.inference.pieces import Cutting
    from ds2f.runner.evaluator import Evaluation, Observe
    from ds2f.runner.splits import Split


def read(name: str, cfg: "Config", lengths: "Cutting | None" = None) -> "tuple[Split, Split]":
    """Reads a split: all of it, and the same with its short recordings only, for the loader.

    Recordings may last up to 24 hours, unless ``--data.max_recording_seconds`` is given.

    Args:
      name: of the split.
      cfg: the configuration of the run.
      lengths: of pieces; None: those of the flags.

    Raises:
      InputError: as ``Split.read``.
    """
    from ds2f.data import audio_blocks, dataset
    from ds2f.runner.splits import Split

    limit, longest = cfg.data.max_recording_seconds, (lengths or cutting.lengths()).longest
    at_once = attrs.evolve(cfg.data, max_recording_seconds=max(limit, longest))
    if not absl_flags.FLAGS["data.max_recording_seconds"].present:
        limit = audio_blocks.MAX_SECONDS
    unlimited = attrs.evolve(cfg.data, max_recording_seconds=limit, max_frames=0, padded_shapes=0)
    whole = Split.read(name, attrs.evolve(cfg, data=unlimited))
    found = whole.dataset
    rows = [each.row for each in found.examples if whole.utterances[each.row].duration <= longest]
    short = attrs.evolve(found, examples=found.examples.taken(()))
    if rows:  # batches and padded shapes are those of the short recordings
        utterances = [whole.utterances[row] for row in rows]
        short = dataset.build(utterances, attrs.evolve(cfg, data=at_once), train=False, found=[])
        short = attrs.evolve(short, remarks=found.remarks)
    return whole, whole._replace(dataset=short, references={row: whole.references[row] for row in rows})


def read_short(name: str, cfg: "Config", console: "Console") -> "Split":
    """Reads the short recordings of a split, for measurements that need all logits; prints how many are left out.

    Raises:
      InputError: as ``Split.read``, or all recordings are long.
    """

    whole, short = read(name, cfg)
    kept, total, longest = len(short.dataset.examples), len(whole.dataset.examples), cutting.lengths().longest
    if not kept:
        raise InputError(
            f"{whole.manifest}: all recordings are longer than {longest:g} s; give shorter ones: cut them at pauses"
        )
    if kept < total:
        console.print(f"{total - kept} of {total} recordings are longer than {longest:g} s and are left out")
    return short


def evaluate(
    run: decoding.OpenedRun,
    whole: "Split",
    cfg: "Config",
    decoder: "Decoder",
    *,
    lengths: "Cutting | None" = None,
    calibration: "Calibration | None" = None,
    observe: "Observe | None" = None,
) -> "tuple[Evaluation, dict[int, Transcript]]":
    """Transcribes a split and counts the errors.

    Args:
      run: the run, opened for the split's short recordings.
      whole: the whole split.
      cfg: the configuration of the run.
      decoder: turns logits into hypotheses.
      lengths: of pieces, as given to ``read``.
      calibration: of confidences and times of the long recordings.
      observe: sees every batch of short recordings.

    Returns:
      The evaluation, whose loss is of the short recordings; the transcripts of the long ones by row of the manifest.

    Raises:
      InputError: a recording cannot be read, or does not fit into memory.
    """
    from ds2f import metrics
    from ds2f.inference.confidence import Calibration

    found = decoding.evaluate(run, cfg, decoder, observe=observe)
    rows = [each.row for each in whole.dataset.examples if each.row not in run.split.references]
    options = {"calibration": calibration or Calibration(), "decoder": decoder}
    cut = _transcribe(rows, run, whole, cfg, lengths or cutting.lengths(), **options) if rows else {}
    counts = found.counts
    for row, transcript in cut.items():
        counts += metrics.count_errors(whole.references[row], transcript.text)
    texts = {row: transcript.text for row, transcript in cut.items()}
    return found._replace(counts=counts, transcripts=found.transcripts | texts), cut


def _transcribe(
    rows: "Sequence[int]",
    run: decoding.OpenedRun,
    whole: "Split",
    cfg: "Config",
    lengths: "Cutting",
    **options: Any,
) -> "dict[int, Transcript]":
    """The transcripts of long recordings by row, in constant memory; options as of ``Recognizer``."""
    from ds2f.data import audio_parts
    from ds2f.inference import Recognizer, pieces
    from ds2f.processes import cpu_count

    lm, rate, limit = decoding.settings(), cfg.spect.sample_rate, whole.dataset.data.max_recording_seconds
    recognizer = Recognizer(
        cfg,
        run.params,
        run.stats,
        backend=run.backend,
        engine=run.engine,
        cut=partial(pieces.cut, cutting=lengths),
        decoding=(lm.workers or cpu_count()) if lm.searches else 1,
        **options,
    )
    sources = (audio_parts.source(whole.utterances[row], sample_rate=rate, max_seconds=limit) for row in rows)
    found = {}
    heard = progress_bars.counted(recognizer.transcribe_all(sources), "transcribing long recordings", len(rows))
    for row, transcript in zip(rows, heard, strict=True):
        if isinstance(transcript, InputError):
            raise transcript
        found[row] = transcript
    return found


def remark(cut: "Mapping[int, Transcript]", total: int, lengths: "Cutting") -> str:
    """One line on the long recordings of a split."""
    minutes, longest = sum(each.duration for each in cut.values()) / 60, lengths.longest
    return (
        f"{len(cut)} of {total} recordings ({minutes:.1f} min) are longer than {longest:g} s: cut in pauses, as "
        "launch.transcribe cuts them"
    )
