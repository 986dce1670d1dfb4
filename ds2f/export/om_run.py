"""What the scripts beside a compiled model do: transcribe recordings, and evaluate manifests, with a given engine."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ds2f import metrics, text
from ds2f.config import Config
from ds2f.data import audio_parts, problems
from ds2f.data.audio_blocks import Recording
from ds2f.data.manifest_opening import open_manifest
from ds2f.errors import InputError
from ds2f.export.ascend import AscendExport, Shape
from ds2f.export.fixed_shapes import FixedShapes
from ds2f.export.om_sessions import Library, Session, on_npu
from ds2f.inference import Recognizer, Transcript, pieces
from ds2f.inference.engine import Engine, longest_seconds
from ds2f.inference.pieces import Cutting
from ds2f.metrics import ErrorCounts, Intervals
from ds2f.runner.device.backend import open_backend


class Heard(NamedTuple):
    """An utterance of a manifest and what the model made of it."""

    audio: str
    reference: str
    text: str
    seconds: float  # of sound


class Evaluated(NamedTuple):
    """A manifest, transcribed."""

    heard: list[Heard]
    seconds: float  # that it took, reading and features included

    @property
    def counts(self) -> ErrorCounts:
        """Errors of all utterances."""
        return sum(self._each(), ErrorCounts())

    @property
    def intervals(self) -> Intervals:
        """95 % intervals of the error rates."""
        return metrics.bootstrap(self._each())

    def _each(self) -> list[ErrorCounts]:
        return [metrics.count_errors(each.reference, each.text) for each in self.heard]


@contextmanager
def npu_engine(
    export: AscendExport, folder: Path, *, device: int = 0, library: Library = "auto"
) -> Iterator[FixedShapes]:
    """The compiled models of a folder ``ascend`` as an engine; arguments and errors as of ``om_sessions.on_npu``."""
    files = [folder / shape.om for shape in export.shapes]
    with on_npu(files, inputs=export.inputs, device=device, library=library) as sessions:
        yield _engine(export, sessions, "om")


def cpu_engine(export: AscendExport, folder: Path) -> FixedShapes:
    """The graphs beside a folder ``ascend`` as an engine.

    Raises:
      InputError: onnx or onnxruntime cannot be imported, or a file is missing or none of ``launch.export``.
    """
    from ds2f import export as package

    package.require_packages()
    from ds2f.export import onnx_session  # on a machine with an NPU, onnx need not be installed

    files = [folder.parent / shape.onnx for shape in export.shapes]
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; copy the graphs of the export, too")
    return _engine(export, [onnx_session.compiled(file) for file in files], "onnx")


def _engine(export: AscendExport, sessions: Sequence[Session], name: str) -> FixedShapes:
    by_shape: dict[Shape, Session] = dict(zip(export.shapes, sessions, strict=True))
    return FixedShapes(export.about.cfg, by_shape, name=name)


def recognizer(cfg: Config, engine: Engine) -> Recognizer:
    """A recognizer with greedy decoding, that cuts recordings into pieces which the engine takes."""
    cut = partial(pieces.cut, cutting=Cutting().at_most(longest_seconds(engine.longest, cfg.spect)))
    return Recognizer(cfg, {}, {}, backend=open_backend("cpu"), engine=engine, cut=cut)


def transcribe(recognizer: Recognizer, names: Sequence[str]) -> Iterator[tuple[str, Transcript | InputError]]:
    """Transcribes recordings; an error takes the place of one that cannot be read."""
    rate = recognizer.cfg.spect.sample_rate

    def opened() -> Iterator[Recording | InputError]:
        for name in names:
            try:
                yield Recording(name, sample_rate=rate)
            except InputError as error:
                yield error

    yield from zip(names, recognizer.transcribe_all(opened()), strict=True)


def evaluate(recognizer: Recognizer, manifest: Path) -> Evaluated:
    """Transcribes the utterances of a manifest of any form.

    Raises:
      InputError: the manifest or a recording cannot be read.
    """
    cfg, begun = recognizer.cfg, time.perf_counter()
    opened = open_manifest(manifest, cfg=cfg.data)
    problems.require_few([opened.checked], limit=cfg.data.max_unusable)
    labels, rate = cfg.model.labels, cfg.spect.sample_rate
    said = []
    for utterance in opened.utterances:
        spelt = text.encode(utterance.transcript, labels, unknown=cfg.data.unknown_characters)
        if spelt is not None:
            said.append((utterance, text.decode(spelt, labels)))
    sources = (
        audio_parts.source(utterance, sample_rate=rate, max_seconds=cfg.data.max_recording_seconds)
        for utterance, _ in said
    )
    heard = []
    for (utterance, reference), found in zip(said, recognizer.transcribe_all(sources), strict=True):
        if isinstance(found, InputError):
            raise found
        heard.append(Heard(str(utterance.audio), reference, found.text, found.duration))
    return Evaluated(heard, time.perf_counter() - begun)


def lines(name: str, found: Evaluated, engine: FixedShapes) -> list[str]:
    """The result of an evaluation in words."""
    counts, intervals, sound = found.counts, found.intervals, sum(each.seconds for each in found.heard)
    rates = [
        f"{rate.upper()} {getattr(counts, rate):.3f} % (95 %: {low:.2f} to {high:.2f}; {errors} of {total:,})"
        for rate, (low, high), errors, total in (
            ("wer", intervals.wer, counts.word_errors, counts.words),
            ("cer", intervals.cer, counts.char_errors, counts.chars),
        )
    ]
    ran = engine.computed
    return [
        f"{name}: {rates[0]}, {rates[1]}",
        f"{name}: {len(found.heard):,} utterances, {sound:.1f} s of sound in {found.seconds:.1f} s; the model "
        f"{ran.seconds:.2f} s in {ran.runs:,} runs, {ran.utterances / max(ran.seconds, 1e-9):.2f} pieces/s",
    ]
