"""Tests of the memory that loader processes use again: who has a buffer, when it is free, what happens without one."""

import gc
import os

import numpy as np
import pytest
import soundfile
import torch

from ds2f.config import Config, DataConfig, ModelConfig, SpectConfig
from ds2f.data import batch_memory, dataset, loading
from ds2f.data.batch_memory import BatchMemory
from ds2f.data.manifests import Utterance


def test_a_buffer_is_free_again_when_nobody_has_a_tensor_of_it():
    memory = BatchMemory(2, buffers=2, size=4 * 6)
    first, place = memory.take(1, (2, 3))
    first.copy_(torch.arange(6.0).view(2, 3))
    received = batch_memory.opened(place, (2, 3))
    assert received.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert received.data_ptr() == first.data_ptr()
    second = memory.take(1, (3, 2))
    assert second[1].buffer != place.buffer
    assert memory.take(1, (1,)) is None  # both buffers of this process are in use
    assert memory.take(0, (1,))[1].buffer not in (place.buffer, second[1].buffer)
    row = received[1]
    del received
    gc.collect()
    assert memory.take(1, (1,)) is None  # a view keeps it
    del row
    gc.collect()
    assert memory.take(1, (1,))[1] == place


def test_a_batch_that_is_too_large_for_a_buffer_gets_none():
    memory = BatchMemory(1, buffers=1, size=4 * 6)
    assert memory.take(0, (7,)) is None
    assert memory.take(0, (6,)) is not None


def test_only_the_process_that_made_the_memory_frees_a_buffer():
    memory = BatchMemory(1, buffers=1, size=4)
    _, place = memory.take(0, (1,))
    received = batch_memory.opened(place, (1,))
    child = os.fork()
    if not child:
        del received
        gc.collect()
        os._exit(0 if memory.take(0, (1,)) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory.take(0, (1,)) is None


@pytest.fixture
def built(tmp_path):
    """Twelve recordings of different lengths."""
    draw, utterances = np.random.default_rng(0), []
    for row in range(12):
        path, samples = tmp_path / f"{row}.wav", 4000 + 700 * row
        soundfile.write(path, draw.normal(0, 0.1, samples), 16000)
        utterances.append(Utterance(row, path, "ABC", samples / 16000))
    cfg = Config(
        data=DataConfig(cache_features=False, batch_size=3), model=ModelConfig(hidden_size=4), spect=SpectConfig()
    )
    return dataset.build(utterances, cfg, train=True)


def test_batches_that_are_kept_hold_their_values_and_batches_that_are_not_take_no_new_memory(built):
    loader = loading.Loader(built, batch_size=3, num_workers=1)
    alone = loading.Loader(built, batch_size=3)
    try:
        kept = [batch for epoch in range(5) for batch in loader.epoch(epoch)]  # more than there are buffers
        expected = [batch for epoch in range(5) for batch in alone.epoch(epoch)]
        for one, other in zip(kept, expected, strict=True):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))
            assert [each.dtype for each in one] == [each.dtype for each in other]
        del kept
        gc.collect()
        places = {batch.features.data_ptr() for epoch in range(5, 15) for batch in loader.epoch(epoch)}
        assert len(places) <= 2 * loading._BUFFERS  # of 40 batches; now and then none is free
    finally:
        loader.close()
        alone.close()
