"""Recognition, sessions and streams through an engine of torch, and through one without weights."""

import attrs
import numpy as np
import pytest
import torch

from ds2f import features
from ds2f.config import ApexConfig, Config, ModelConfig, SpectConfig, resolve
from ds2f.errors import InputError
from ds2f.inference import Recognizer, Session, stream
from ds2f.inference.engine import TorchEngine, can_stream, longest_seconds, require_short
from ds2f.model import deepspeech2, streaming
from ds2f.runner.device.backend import open_backend
from ds2f.types import Batch, Logits

RATE = 2000
CFG = resolve(
    Config(
        model=ModelConfig(labels=tuple("_ABC "), hidden_size=8, hidden_layers=1, bidirectional=False),
        spect=SpectConfig(sample_rate=RATE, normalize="global", mean=(0.1,) * 21, deviation=0.7),
        apex=ApexConfig(opt_level="O0"),
    )
)
PARAMS, STATS = deepspeech2.init(CFG.model, key=1)
PARAMS["output"]["lookahead"]["weight"].abs_()  # outputs that the clip lets through
PARAMS["output"]["weight"] *= 30
BACKEND = open_backend("cpu")
SOUND = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)


class Elsewhere:
    """An engine that has the weights for itself, and takes pieces of one second."""

    name = "elsewhere"
    longest = 101

    def __init__(self) -> None:
        self.called: list[str] = []

    def logits(self, batch: Batch, /) -> Logits:
        self.called.append("logits")
        require_short(int(batch.lengths.max()), self.longest, CFG.spect)
        found, _ = deepspeech2.apply(PARAMS, STATS, batch.features, batch.lengths, cfg=CFG.model, train=False)
        return found._replace(values=found.values.log_softmax(dim=2))

    def begin(self, *, streams: int = 1, block: int = 16) -> stream.StreamState:
        return stream.init(CFG, {}, streams=streams, block=block)

    def advance(self, states, /):
        def step(state, values, lengths):
            self.called.append("step")
            return streaming.step(PARAMS, STATS, state, values, lengths, cfg=CFG.model)

        return stream.advance({}, {}, states, cfg=CFG, step=step)


def batch_of(*samples: int) -> Batch:
    spectrograms = [features.log_spectrogram(torch.from_numpy(SOUND[:each]), CFG.spect) for each in samples]
    lengths = torch.tensor([each.shape[1] for each in spectrograms])
    padded = torch.nn.utils.rnn.pad_sequence([each.T for each in spectrograms], batch_first=True).transpose(1, 2)
    none = torch.zeros(len(samples), dtype=torch.int64)
    return Batch(padded, lengths, none[:, None], none, none, torch.ones(()))


def recognize(engine: Elsewhere | None = None) -> Recognizer:
    weights = (PARAMS, STATS) if engine is None else ({}, {})
    return Recognizer(CFG, *weights, backend=BACKEND, engine=engine)


def test_the_logits_of_torch_are_those_of_the_model():
    batch = batch_of(RATE, 700)
    found = TorchEngine(CFG, PARAMS, STATS, backend=BACKEND).logits(batch)
    expected, _ = deepspeech2.apply(PARAMS, STATS, batch.features, batch.lengths, cfg=CFG.model, train=False)
    assert found.lengths.tolist() == expected.lengths.tolist()
    torch.testing.assert_close(found.values, expected.values)
    assert not found.values.requires_grad


def test_a_recognizer_asks_its_engine_and_needs_no_weights():
    engine = Elsewhere()
    heard = recognize(engine).transcribe(SOUND[:RATE], rate=RATE)
    assert heard == recognize().transcribe(SOUND[:RATE], rate=RATE)
    assert heard.words
    assert engine.called == ["logits"]


def test_a_session_asks_its_engine_for_blocks():
    engine = Elsewhere()
    found, expected = (Session(recognize(each)) for each in (engine, None))
    assert found.feed(SOUND) + found.finish() == expected.feed(SOUND) + expected.finish()
    assert set(engine.called) == {"step"}


def test_a_piece_that_is_too_long_is_refused_for_its_recording_alone():
    recordings = [SOUND[:RATE], SOUND[: RATE + CFG.spect.stride_samples], SOUND[:700]]
    first, second, third = recognize(Elsewhere()).transcribe_all(recordings, rate=RATE)
    assert isinstance(second, InputError)
    assert "102 frames of features (1.02 s) in one piece, and the exported model takes 101 (1.01 s)" in str(second)
    assert [each.duration for each in (first, third)] == [1, 0.35]


@pytest.mark.parametrize("longest", [1, 57, 621])
def test_the_longest_recording_fits_and_a_frame_more_does_not(longest):
    samples = round(longest_seconds(longest, CFG.spect) * RATE)
    fits = features.num_frames(samples, CFG.spect)
    assert fits == longest
    require_short(fits, longest, CFG.spect)
    with pytest.raises(InputError, match=rf"^a\.wav: {fits + 1} frames .* without them"):
        require_short(fits + 1, longest, CFG.spect, label="a.wav")


def test_only_a_unidirectional_model_can_stream():
    both = attrs.evolve(CFG, model=attrs.evolve(CFG.model, bidirectional=True))
    weights = deepspeech2.init(both.model, key=1)
    assert not can_stream(TorchEngine(both, *weights, backend=BACKEND))
    assert can_stream(TorchEngine(CFG, PARAMS, STATS, backend=BACKEND))


def test_an_engine_of_fixed_blocks_streams_in_these_alone():
    class Fixed(Elsewhere):
        def begin(self, *, streams: int = 1, block: int = 16) -> stream.StreamState:
            if block != 8:
                raise InputError("blocks of 8 frames")
            return super().begin(streams=streams, block=block)

    assert [can_stream(Fixed(), block=block) for block in (8, 16)] == [True, False]


def test_without_a_limit_recordings_may_have_any_length():
    assert longest_seconds(None, CFG.spect) == float("inf")
