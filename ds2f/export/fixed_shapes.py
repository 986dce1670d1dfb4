"""A model in several fixed shapes as one engine: each utterance goes to the shortest shape that it fits into."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from ds2f.checkpoint.exported import About, from_metadata
from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.export.ascend import FILE, FORMAT, AscendExport, Shape
from ds2f.export.om_sessions import Session
from ds2f.files import RECORD_BYTES, read_bounded
from ds2f.inference.stream import StreamState
from ds2f.types import Batch, Logits

_REMEDY = "Export the model again with python -m launch.export --format=onnx --shapes=..."


class Computed(NamedTuple):
    """How long a model has computed."""

    seconds: float = 0.0
    runs: int = 0
    utterances: int = 0


def read(folder: Path) -> AscendExport:
    """Reads the ``export.json`` of a folder ``ascend``.

    Raises:
      InputError: it is missing, damaged, or of a newer version.
    """
    path = folder / FILE
    try:
        found = json.loads(read_bounded(path, RECORD_BYTES, remedy=_REMEDY))
        if found["format"] != FORMAT:
            raise InputError(f"{path}: format {found['format']}, and this version of ds2f reads {FORMAT}; update ds2f")
        pairs = [(int(batch), int(frames)) for batch, frames in found["shapes"]]
        if not all(0 < number < 1 << 24 for pair in pairs for number in pair):
            raise ValueError("a shape is out of range")
        about: About = from_metadata(found["metadata"], str(path))
        (features, lengths), (log_probs, counts) = found["inputs"], found["outputs"]
        return AscendExport(
            about=about,
            shapes=tuple(Shape(*pair) for pair in pairs),
            opset=int(found["opset"]),
            dtype=str(found["dtype"]),
            inputs=(str(features), str(lengths)),
            outputs=(str(log_probs), str(counts)),
        )
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; it belongs to the folder ascend of an export. {_REMEDY}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make it readable") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({error}). {_REMEDY}") from error


class FixedShapes:
    """An engine (``ds2f.inference.engine``) over sessions of fixed shapes.

    Attributes:
      name: of the engine.
      longest: frames of the longest shape.
      computed: time of all runs so far.
    """

    def __init__(self, cfg: Config, sessions: Mapping[Shape, Session], *, name: str) -> None:
        """Makes an engine of sessions, at least one."""
        self.name, self._cfg, self._sessions = name, cfg, dict(sessions)
        self.longest: int | None = max(shape.frames for shape in sessions)
        self.computed = Computed()

    def logits(self, batch: Batch, /) -> Logits:
        """Log-probabilities of a batch.

        Args:
          batch: on the CPU. Utterances are taken apart and put together to batches of the shapes; places that are left
            are filled with the first utterance.

        Raises:
          InputError: an utterance is longer than the longest shape.
        """
        lengths = [int(length) for length in batch.lengths]
        found: dict[int, Tensor] = {}
        for shape, rows in batches(lengths, list(self._sessions)):
            filled = [*rows, *(rows[:1] * (shape.batch - len(rows)))]
            features = np.zeros((shape.batch, batch.features.shape[1], shape.frames), np.float32)
            for place, row in enumerate(filled):
                features[place, :, : lengths[row]] = batch.features[row, :, : lengths[row]].numpy()
            begun = time.perf_counter()
            outputs = self._sessions[shape](features, np.array([lengths[row] for row in filled], np.int32))
            ran = self.computed
            self.computed = Computed(
                ran.seconds + time.perf_counter() - begun, ran.runs + 1, ran.utterances + len(rows)
            )
            for place, row in enumerate(rows):
                found[row] = torch.from_numpy(outputs.log_probs[place, : outputs.lengths[place]].copy())
        values = [found[row] for row in range(len(lengths))]
        return Logits(
            torch.nn.utils.rnn.pad_sequence(values, batch_first=True), torch.tensor([len(each) for each in values])
        )

    def begin(self, *, streams: int = 1, block: int = 16) -> NoReturn:
        """Refuses: a model of fixed shapes computes whole utterances."""
        raise InputError(f"the model by {self.name} has fixed shapes and cannot stream; transcribe whole recordings")

    def advance(self, states: Sequence[StreamState], /) -> NoReturn:
        """As ``begin``."""
        self.begin(streams=len(states))


def batches(lengths: Sequence[int], shapes: Sequence[Shape]) -> list[tuple[Shape, list[int]]]:
    """Divides utterances among shapes: the shortest that fits, the largest batch that fills, else the smallest.

    Args:
      lengths: frames of each utterance.
      shapes: those that there are.

    Returns:
      Shapes, and the indices of at most ``batch`` utterances for each.

    Raises:
      InputError: an utterance is longer than every shape.

    >>> batches([90, 50, 100, 101], [Shape(2, 100), Shape(1, 100), Shape(1, 200)])
    [(Shape(batch=2, frames=100), [0, 1]), (Shape(batch=1, frames=100), [2]), (Shape(batch=1, frames=200), [3])]
    """
    rows: dict[int, list[int]] = {frames: [] for frames in sorted({shape.frames for shape in shapes})}
    for row, length in enumerate(lengths):
        frames = next((frames for frames in rows if length <= frames), None)
        if frames is None:
            raise InputError(
                f"an utterance has {length:,} frames, and the longest shape {max(rows):,}; give shorter pieces, or "
                "export the model with longer --shapes"
            )
        rows[frames].append(row)
    divided = []
    for frames, waiting in rows.items():
        sizes = sorted(shape.batch for shape in shapes if shape.frames == frames)
        while waiting:
            size = max((size for size in sizes if size <= len(waiting)), default=sizes[0])
            divided.append((Shape(size, frames), waiting[:size]))
            waiting = waiting[size:]
    return divided
