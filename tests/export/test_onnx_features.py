"""Features within the graph against ``features.log_spectrogram``, through the model."""

import drawn_models as models
import numpy as np
import onnxruntime
import pytest
import torch

from ds2f import features
from ds2f.config import SpectConfig
from ds2f.errors import InputError
from ds2f.export.onnx_model import OnnxOptions, build

SPECTRA = {
    "utterance": SpectConfig(),
    "bins, mels": SpectConfig(normalize="bins", num_mels=40, window="hann"),
    "global": SpectConfig(normalize="global", mean=tuple(np.linspace(0, 0.1, 161).tolist()), deviation=0.4),
    "odd window": SpectConfig(sample_rate=8000, window_size=0.020125, full_scale=1000.0, window="blackman"),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_samples_give_the_log_probabilities_of_their_features(opset: int, name: str) -> None:
    spect = SPECTRA[name]
    cfg, params, stats = models.drawn(spect=spect, hidden_layers=1, num_bins=spect.num_bins)
    lengths = [9000, 5123, 161, 100, 3]
    samples = 0.1 * torch.randn(len(lengths), 9000, generator=torch.Generator().manual_seed(1))
    for options in (OnnxOptions(opset=opset, with_features=True),
                    OnnxOptions(opset=opset, with_features=True, batch=5, frames=9000)):  # fmt: skip
        model = build(cfg, params, stats, options)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        feeds = {"samples": samples.numpy(), "lengths": np.array(lengths, np.int32)}
        found, counts = session.run(None, feeds)
        for row, length, count, given in zip(found, lengths, counts, samples, strict=True):
            spectrogram = features.log_spectrogram(given[:length], spect)
            single = models.batch(cfg, [spectrogram.shape[1]])._replace(features=spectrogram[None])
            expected = models.log_probs(cfg, params, stats, single)[0]
            assert count == len(expected)
            assert float((torch.from_numpy(row[:count]) - expected).abs().max()) < 1e-4


def test_a_batch_shorter_than_half_a_window() -> None:
    cfg, params, stats = models.drawn(hidden_layers=1)
    model = build(cfg, params, stats, OnnxOptions(with_features=True))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, counts = session.run(None, {"samples": np.ones((1, 7), np.float32), "lengths": np.array([7], np.int32)})
    spectrogram = features.log_spectrogram(torch.ones(7), cfg.spect)
    single = models.batch(cfg, [spectrogram.shape[1]])._replace(features=spectrogram[None])
    expected = models.log_probs(cfg, params, stats, single)[0]
    assert np.abs(found[0, : counts[0]] - expected.numpy()).max() < 1e-4


def test_global_normalisation_needs_its_statistics() -> None:
    cfg, params, stats = models.drawn(spect=SpectConfig(normalize="global"))
    with pytest.raises(InputError, match="without --with_features"):
        build(cfg, params, stats, OnnxOptions(with_features=True))
