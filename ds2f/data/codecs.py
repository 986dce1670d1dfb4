"""Codecs of augmentation: those of libsndfile in memory, beside G.711 in closed form."""

from io import BytesIO
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from torch import Tensor

from ds2f.augment import telephone


class _Format(NamedTuple):
    """A codec of libsndfile, at its own bit rate; decoded, it has neither delay nor other samples at its end."""

    container: str
    subtype: str
    rates: tuple[int, ...]  # hertz, ascending


_WIDE = (8000, 12000, 16000, 24000, 48000)
_FORMATS = {
    "gsm": _Format("WAV", "GSM610", (telephone.RATE,)),  # GSM 06.10, full rate, 13 kbit/s
    "opus": _Format("OGG", "OPUS", _WIDE),
    "vorbis": _Format("OGG", "VORBIS", _WIDE),
    "mp3": _Format("MP3", "MPEG_LAYER_III", _WIDE),
}


def coded(waveform: Tensor, codec: str, sample_rate: int) -> Tensor:
    """Encodes a waveform and decodes it, at 90 % of full scale; level, length and place of the sound stay.

    Args:
      waveform: [N] float32 on the CPU.
      codec: one of ``augmentation.codecs``. Telephone codecs work at 8 kHz, the others at the lowest rate that they
        know and that is not below ``sample_rate``.
      sample_rate: hertz, of the waveform and of the result.

    Returns:
      [N]; ``waveform`` itself if it is silent.
    """
    if codec in telephone.G711:
        return telephone.coded(waveform, codec, sample_rate=sample_rate)
    container, subtype, rates = _FORMATS[codec]
    rate = next((each for each in rates if each >= sample_rate), rates[-1])

    def code(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        file = BytesIO()
        soundfile.write(file, samples, rate, format=container, subtype=subtype)
        file.seek(0)
        return soundfile.read(file, dtype="float32")[0][: len(samples)]

    return telephone.at_level(waveform, code, rate=rate, sample_rate=sample_rate)
