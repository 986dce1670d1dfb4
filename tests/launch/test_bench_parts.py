"""Tests of the parts of launch.bench, on tiny models and corpora."""

import itertools
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import attrs
import pytest
import soundfile
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from ds2f import ctc, steps, tree
from ds2f.config import Config, DataConfig, ModelConfig, OptimConfig, SpectConfig
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend
from ds2f.runner.spans import Spans
from launch.bench import (
    augmentation_speed,
    decoding_speed,
    epoch,
    export_speed,
    feature_speed,
    limit,
    loader,
    memory,
    stages,
    step,
    streaming_speed,
    transcription_speed,
)
from launch.bench.comparison import Ours
from launch.bench.flops import training_flops
from launch.bench.options import Options
from launch.synthetic_batches import make_batch

CFG = Config(
    model=ModelConfig(hidden_size=8, hidden_layers=2),
    data=DataConfig(batch_size=2, num_workers=0, dataset="tones", cache_features=False),
    optim=OptimConfig(schedule="constant", learning_rate=1e-3),
)
OPTIONS = Options(rounds=2, warmup=0)
SLOW = {"ours": 1.0, "usual": 2.0, "best": 1.5}  # synthetic seconds: a power of the number of steps so far
PEAKS = {"ours": 3_000_000_000, "usual": 4_000_000_000}


def shown(module, result) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        module.show([result], console)
    return capture.get()


def test_implementations_take_turns_on_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    class Implementation:
        def __init__(self, name):
            self.name = name

        def step(self, batch):
            taken.append((self.name, int(batch.lengths.max()), batch.features.sum().item()))
            return torch.tensor({"ours": 2.0, "usual": 2.0, "best": 1.5}[self.name])

    monkeypatch.setattr(step.comparison, "make", lambda name, cfg, backend: Implementation(name))
    monkeypatch.setattr(step.comparison, "require_agreement", lambda cfg, backend: {})
    monkeypatch.setattr(step, "seconds_of", lambda work, backend: work() or len(taken) ** SLOW[taken[-1][0]])
    monkeypatch.setattr(limit, "SIZE", 64)
    monkeypatch.setattr(limit, "_SECONDS", 0.001)
    result = step.measure(CFG, Options(rounds=3, warmup=1))
    names = [name for name, *_ in taken]
    everyone = ["ours", "usual", "best"]
    assert names == everyone * 2 + ["usual", "best", "ours"] + ["best", "ours", "usual"]
    rounds = [{each[1:] for each in taken[at : at + 3]} for at in range(0, 12, 3)]
    assert all(len(batches) == 1 for batches in rounds), "one batch per round, for all implementations"
    longest = [batches.pop()[0] for batches in rounds]
    assert longest[0] == longest[1] < longest[2] < longest[3], "the warm-up is on the shortest"

    seconds = {name: found["seconds"] for name, found in result["contestants"].items()}
    for name in ("usual", "best"):
        ratio = result["ours_over"][name]
        assert ratio["rounds"] == [b / a for a, b in zip(seconds["ours"], seconds[name], strict=True)]
        assert ratio["total"] == pytest.approx(sum(seconds[name]) / sum(seconds["ours"]))
        assert ratio["min"] <= ratio["median"] <= ratio["max"]
    assert [result["ours_over"][name]["loss_difference"] for name in ("usual", "best")] == [0, 0.25]
    assert result["ours_over"]["usual"]["total"] > result["ours_over"]["best"]["total"] > 1
    ours = result["contestants"]["ours"]
    assert ours["utterances_per_second"] == pytest.approx(3 * CFG.data.batch_size / sum(seconds["ours"]))
    assert ours["share_of_limit"] == pytest.approx(
        ours["utterances_per_second"] * result["gflop_per_utterance"] * 1e9 / result["limit_flops_per_second"]["median"]
    )


def test_times_of_a_loss_that_is_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.comparison, "require_agreement", lambda cfg, backend: {})
    monkeypatch.setattr(Ours, "step", lambda self, batch: torch.tensor(float("nan")))
    with pytest.raises(RuntimeError, match="ours: the loss is nan"):
        step.measure(CFG, Options(rounds=1, warmup=0, contestants=("ours",)))


def test_implementations_start_from_the_same_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step.comparison, "require_agreement", lambda cfg, backend: {})
    result = step.measure(CFG, Options(rounds=1, warmup=0, contestants=("usual", "ours")))
    assert result["ours_over"]["usual"]["loss_difference"] < 0.01, "their batch norms differ in padding only"
    assert "differ by at most" in shown(step, result)
    assert max(map(len, shown(step, result).splitlines())) <= 100
    ours, usual = (result["contestants"][name]["processor_seconds"] for name in ("ours", "usual"))
    assert result["ours_over"]["usual"]["processor_total"] == pytest.approx(sum(usual) / sum(ours))


@pytest.mark.alone
@pytest.mark.parametrize(("engine", "remat"), [("func", False), ("autograd", False), ("func", True)])
def test_the_timed_step_is_the_step_and_its_parts_add_up(engine: str, remat: bool) -> None:
    cfg = attrs.evolve(CFG, training=attrs.evolve(CFG.training, engine=engine))
    cfg = attrs.evolve(cfg, model=attrs.evolve(cfg.model, remat=remat))
    result = stages.measure(cfg, OPTIONS)
    parts = result["parts"]
    chain = ["conv", "rnn_0/forward", "rnn_0/backward", "rnn_1", "output", "losses"]
    assert list(parts) == [
        *(f"{name} forward" for name in chain),
        *(f"{name} backward" for name in reversed(chain)),
        *("norm and verdict", "optimizer", "rest"),
    ]
    assert all(min(part["seconds"]) >= 0 for part in parts.values())
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(sum(part["seconds"]) for part in parts.values()) == pytest.approx(2 * result["seconds"])
    # The faster round: another process may have taken the processor in the other.
    both_ways = {name: sum(min(parts[f"{name} {way}"]["seconds"]) for way in ("forward", "backward")) for name in chain}
    assert max(both_ways, key=both_ways.__getitem__) == "conv", "nearly all of the work"
    assert "rnn_0/backward" in shown(stages, result)

    backend = open_backend("cpu")
    timed = Ours(cfg, backend, spans=Spans(backend.synchronize))
    plain, batch = Ours(cfg, backend), make_batch(cfg, [50, 41])
    for _ in range(2):
        assert torch.equal(timed.step(batch), plain.step(batch))
    for name, value in plain.weights().items():
        assert torch.equal(timed.weights()[name], value), name


@pytest.mark.parametrize("model", [{}, {"rnn_type": "gru", "hidden_layers": 3}, {"bidirectional": False}])
def test_the_operations_of_a_step_are_those_that_torch_counts(model: dict) -> None:
    cfg = ModelConfig(**{"hidden_size": 64, "hidden_layers": 2} | model, kernel="scan")
    params, stats = deepspeech2.init(cfg, key=0)
    params = tree.map(torch.Tensor.requires_grad_, params)
    batch = make_batch(attrs.evolve(CFG, model=cfg), [120])
    with FlopCounterMode(display=False) as counter:
        losses, _ = steps.objective(cfg, criterion=ctc.native)(params, stats, batch)
        losses.sum().backward()
    # The recurrent product of the first frame has no input that needs a gradient.
    assert training_flops(cfg, 120) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_the_operations_are_the_published_number() -> None:
    assert training_flops(ModelConfig(), 300) == pytest.approx(89e9, rel=0.03)


def test_the_limit_is_operations_of_the_products_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    multiply = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: calls.append((a.shape, b.shape)) or multiply(a, b))
    monkeypatch.setattr(limit, "seconds_of", lambda work, backend: work() or 0.1)
    product = limit.Product((16, 32, 48), torch.float32, open_backend("cpu"))
    calls.clear()
    rate = product.flops_per_second()
    assert set(calls) == {((16, 32), (32, 48))}
    assert len(calls) == 3, "0.3 seconds of 0.1 each"
    assert rate == pytest.approx(3 * 2 * 16 * 32 * 48 / 0.1)


def test_memory_is_measured_in_a_process_that_inherits_none() -> None:
    here = torch.ones(2**28)  # 1 GiB, resident in this process
    result = memory.measure(CFG, Options(rounds=1, contestants=("best",)))
    ours = memory.peak(CFG, "ours", 1, half=torch.float32, device=torch.device("cpu"))
    del here
    assert 2e8 < result["peak_bytes"]["best"] < 1e9 < ours


def test_a_process_that_the_system_kills_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *arguments, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def submit(self, work, cfg, name, steps, **device):
            future = Future()
            future.set_exception(BrokenProcessPool()) if name == "amp" else future.set_result(PEAKS[name])
            return future

    monkeypatch.setattr(memory, "ProcessPoolExecutor", Pool)
    result = memory.measure(CFG, Options(contestants=("ours", "usual", "amp")))
    assert result["peak_bytes"] == PEAKS | {"amp": None}
    assert result["ours_over"] == {"usual": 0.75}
    assert all(cell in shown(memory, result) for cell in ("3.00", "4.00", "0.75"))
    assert "killed" in shown(memory, result)


def test_the_loader_is_timed_with_and_without_worker_and_cache(tone_corpus: Path) -> None:
    result = loader.measure(attrs.evolve(CFG, data_path=str(tone_corpus)), OPTIONS)
    found = result["epochs"]
    assert [(each["workers"], each["cache"]) for each in found] == [
        (workers, cache) for workers in (0, 1) for cache in ("cold", "warm")
    ]
    assert {each["utterances"] for each in found} == {10}
    assert all(0 < each["padding_share"] < 0.5 for each in found)
    assert not (tone_corpus / "cache").exists(), "the cache of the corpus stays untouched"
    assert "cold" in shown(loader, result)


def test_features_are_timed_on_one_thread_and_the_number_of_threads_is_restored(tone_corpus: Path) -> None:
    threads = torch.get_num_threads()
    result = feature_speed.measure(attrs.evolve(CFG, data_path=str(tone_corpus)), OPTIONS)
    assert torch.get_num_threads() == threads
    assert result["recordings"] == 10
    assert result["spectrogram_times_real_time"] > result["with_reading_times_real_time"] > 1
    assert "10 recordings" in shown(feature_speed, result)


def test_decoding_takes_the_test_set_or_a_synthetic_one(tone_corpus: Path, tmp_path: Path) -> None:
    real, synthetic = (
        decoding_speed.measure(attrs.evolve(CFG, data_path=str(path)), OPTIONS) for path in (tone_corpus, tmp_path)
    )
    assert (real["utterances"], real["words"], real["made_up"]) == (3, 3, False)
    assert (synthetic["utterances"], synthetic["made_up"]) == (130, True)
    assert synthetic["characters"] == pytest.approx(1922, rel=0.4), "about as many as in AN4"
    assert "synthetic" in shown(decoding_speed, synthetic)


def test_transcription_is_timed_in_both_ways_in_turns(tone_corpus: Path) -> None:
    found = transcription_speed.measure(attrs.evolve(CFG, data_path=str(tone_corpus)), OPTIONS)
    assert found["files"] == 3
    assert found["compute"] in ("bfloat16", "float32")
    assert found["seconds"] == pytest.approx(
        sum(soundfile.info(path).duration for path in tone_corpus.glob("test*.wav"))
    )
    assert len(found["one_by_one"]) == len(found["at_once"]) == 2
    told = found | {"one_by_one": [3.0, 6.0, 4.0], "at_once": [1.0, 2.0, 4.0]}
    assert "one by one 0.8 a second, at once 1.5: 3.00" in shown(transcription_speed, told)


def test_exports_are_timed_in_turns() -> None:
    found = export_speed.measure(CFG, OPTIONS)
    assert set(found["formats"]) == {"safetensors, torch", "ONNX, float32", "ONNX, int8", "torch.export"}
    for each in found["formats"].values():
        assert each["bytes"] > 1000
        assert len(each["1"]) == len(each["8"]) == OPTIONS.rounds
    told = {"preset": "3x512", "threads": 1, "formats": {
        "safetensors, torch": {"bytes": 4e6, "load_seconds": 0.5, "1": [0.2, 0.4], "8": [0.1, 0.1]},
        "ONNX, int8": {"bytes": 1e6, "load_seconds": 0.25, "1": [0.1, 0.1], "8": [0.1, 0.2]},
    }}  # fmt: skip
    assert "0.100 (3.00 x)" in shown(export_speed, told)


def test_streams_in_real_time_and_their_latency_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=0.01)  # every block takes 10 ms
    busy = itertools.count(step=0.005)  # half of them on the processor
    monkeypatch.setattr(streaming_speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(streaming_speed.time, "process_time", lambda: next(busy))
    found = streaming_speed.measure(CFG, OPTIONS)
    delay = 0.01 + 0.01 * 15 + 0.02 * 19  # half a window, two convolutions, lookahead
    assert found["delay_seconds"] == pytest.approx(delay)
    assert [(case["block_seconds"], case["streams_in_batch"]) for case in found["cases"]] == [
        (pytest.approx(seconds), streams) for seconds in (0.16, 0.32, 0.64) for streams in (1, 8)
    ]
    for case in found["cases"]:
        assert case["streams"] == pytest.approx(100 * case["block_seconds"] * case["streams_in_batch"])
        assert case["streams_per_core"] == pytest.approx(2 * case["streams"])
        assert case["p50"] == pytest.approx(case["block_seconds"] / 2 + delay + 0.01)
        assert case["p50"] < case["p95"] < case["block_seconds"] + delay + 0.01
    assert "320 ms, batch 8: 256.0 streams (512.0 per core)" in shown(streaming_speed, found)


def test_an_epoch_trains_on_every_utterance_and_accounts_for_its_time(tone_corpus: Path) -> None:
    cfg = attrs.evolve(CFG, data_path=str(tone_corpus), data=attrs.evolve(CFG.data, batch_size=4))
    result = epoch.measure(cfg, OPTIONS)
    assert (result["steps"], result["steps_of_the_epoch"], result["utterances"]) == (3, 3, 10)
    assert 0.9 < result["step_share"] + result["waiting_share"] <= 1
    assert result["utterances_per_second"] == pytest.approx(10 / result["seconds"])
    assert epoch.measure(cfg, Options(steps=1))["steps"] == 1
    assert "3 of 3 steps" in shown(epoch, result)


def test_every_step_of_the_augmentation_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation_speed, "_SECONDS", 1)
    monkeypatch.setattr(augmentation_speed, "_TIMED", 0.001)
    found = augmentation_speed.measure(attrs.evolve(CFG, spect=SpectConfig(sample_rate=8000)), OPTIONS)
    times = found["milliseconds_per_second"]
    assert len(times) == 17
    assert all(0 <= each < 10_000 for each in times.values())
    assert times["codec opus"] > times["gain"]
    assert shown(augmentation_speed, found).count("\n") == 18
