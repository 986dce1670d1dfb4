"""Pictures of spectrograms, as PNG by Pillow: time to the right, frequency upwards, brighter is louder."""

import math
import textwrap
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from ds2f.config import SpectConfig
from ds2f.errors import InputError
from ds2f.features import frequencies, log_spectrogram
from ds2f.text import shown

if TYPE_CHECKING:
    from ds2f.runner.splits import Split

_COLOURS = ((5, 5, 20), (60, 15, 90), (160, 40, 100), (235, 105, 50), (250, 200, 60), (255, 255, 220))
_LEAST = (640, 320)  # pixels, width and height of the spectrogram; small ones are enlarged by a whole factor
_MOST = (4000, 1024)
_LEFT, _RIGHT, _BOTTOM = 48, 16, 28
_LINE = 14  # pixels from line to line of the title
_TICK_DISTANCE = 60  # pixels between ticks of the time axis, at least
_LETTER = 6.5  # pixels of a letter of the title


def scale_of(values: Tensor) -> tuple[float, float]:
    """The values of the darkest and the brightest colour for a spectrogram [F, T]."""
    low, high = np.percentile(values.numpy(), (20, 99.9))
    return float(low), float(max(high, low + 1e-3))


def png(values: Tensor, spect: SpectConfig, *, scale: tuple[float, float], title: str) -> bytes:
    """Draws a spectrogram with axes in seconds and kilohertz.

    Args:
      values: [F, T] float on the CPU.
      spect: settings of the spectrogram.
      scale: the values of the darkest and the brightest colour.
      title: text above it.

    Returns:
      A PNG file.
    """
    bins, frames = values.shape
    width, height = _size(frames, 0), _size(bins, 1)
    share = ((values.numpy() - scale[0]) / (scale[1] - scale[0])).clip(0, 1)[::-1]
    spectrogram = Image.fromarray(_coloured(share)).resize((width, height), Image.Resampling.BOX)
    lines = textwrap.wrap(shown(title).encode("ascii", "replace").decode(), int(width / _LETTER))
    top = _LINE * (len(lines) + 1)
    picture = Image.new("RGB", (_LEFT + width + _RIGHT, top + height + _BOTTOM), "white")
    picture.paste(spectrogram, (_LEFT, top))
    draw = ImageDraw.Draw(picture)
    draw.text((_LEFT, _LINE / 2), "\n".join(lines), fill="black", spacing=2)
    for place, label in _times(frames * spect.window_stride, width):
        draw.line((_LEFT + place, top + height, _LEFT + place, top + height + 4), fill="black")
        draw.text((_LEFT + place, top + height + 6), label, fill="black", anchor="mt")
    for place, label in _kilohertz(frequencies(spect).numpy(), height):
        draw.line((_LEFT - 4, top + place, _LEFT, top + place), fill="black")
        draw.text((_LEFT - 6, top + place), label, fill="black", anchor="rm")
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def of_utterance(split: "Split") -> bytes:
    """The spectrogram of the first utterance of a split, as PNG; empty if it cannot be read."""
    from ds2f.data import audio_parts

    dataset = split.dataset
    utterance = split.utterances[dataset.examples[0].row]
    rate, limit = dataset.spect.sample_rate, dataset.data.max_recording_seconds
    try:
        heard = audio_parts.of(utterance, sample_rate=rate, max_seconds=limit).samples
    except InputError:
        return b""  # the loader reports it
    values = log_spectrogram(torch.from_numpy(heard), dataset.spect)
    title = f"{utterance.name}: {split.references[dataset.examples[0].row]}"
    return png(values, dataset.spect, scale=scale_of(values), title=title)


def _size(values: int, axis: int) -> int:
    """Pixels of an axis: a whole number of values, or fewer pixels than values."""
    return min(values * math.ceil(_LEAST[axis] / values), max(_MOST[axis], _LEAST[axis]))


def _coloured(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[F, T] from 0 to 1 as [F, T, 3] colours."""
    stops = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(share, stops, channel) for channel in zip(*_COLOURS, strict=True)], -1).astype(np.uint8)


def _times(seconds: float, width: int) -> Iterator[tuple[float, str]]:
    """Ticks of the time axis: places in pixels, and seconds."""
    step = next(
        (each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60) if each / seconds * width >= _TICK_DISTANCE), 300
    )
    for number in range(int(seconds / step) + 1):
        yield number * step / seconds * width, f"{number * step:g} s" if number == 0 else f"{number * step:g}"


def _kilohertz(centres: NDArray[np.float64], height: int) -> Iterator[tuple[float, str]]:
    """Ticks of the frequency axis: places in pixels from the top, and kilohertz."""
    for hertz in np.arange(0, centres[-1] + 1, 1000.0):
        place = float(np.interp(hertz, centres, (np.arange(len(centres)) + 0.5) / len(centres)))
        yield (1 - place) * height, f"{hertz / 1000:g}" + (" kHz" if hertz == 0 else "")
