"""What a training says about a device that has never passed launch.doctor."""

import attrs
import pytest
import torch

from ds2f.runner.device import examination, inspection
from ds2f.runner.device.backend import Backend
from launch import train

CARD = Backend("cuda", torch.device("cpu"), "H200", torch.bfloat16)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(inspection, "driver_version", lambda _: "580.95")
    return tmp_path / "cache" / "ds2f" / "doctor.json"


def test_a_device_that_was_never_checked_is_named_with_the_command():
    assert examination.remark(CARD) == (
        "doctor: H200 has not been checked with this driver and torch; in a minute: "
        "python -m launch.doctor --device=cuda"
    )


def test_nothing_is_said_about_a_device_that_has_passed_nor_on_a_cpu(monkeypatch):
    examination.record("cuda", "H200", passed=True, summary="40 ok")
    assert examination.remark(CARD) == ""
    monkeypatch.setattr(examination.user_cache, "read", None)
    assert examination.remark(attrs.evolve(CARD, name="cpu")) == ""


def test_a_device_that_has_failed_is_named_with_its_summary():
    examination.record("cuda", "H200", passed=False, summary="1 wrong: lstm \x1b[2J (--model.kernel=scan)")
    assert "doctor: 1 wrong: lstm \\x1b[2J (--model.kernel=scan). Again: " in examination.remark(CARD)


@pytest.mark.parametrize("what", ["driver", "torch", "name"])
def test_another_driver_torch_or_device_needs_another_look(monkeypatch, what):
    examination.record("cuda", "H200", passed=True, summary="40 ok")
    if what == "driver":
        monkeypatch.setattr(inspection, "driver_version", lambda _: "590.1")
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    card = attrs.evolve(CARD, description="H100") if what == "name" else CARD
    assert examination.remark(card).startswith("doctor: ")


@pytest.mark.parametrize("content", ["", "[]", "{", "7", '{"KEY": 3}', '{"KEY": {"passed": true}}'])
def test_a_damaged_record_counts_as_none(cache, content):
    cache.parent.mkdir(parents=True)
    cache.write_text(content.replace("KEY", examination._key("cuda", "H200")))
    assert "has not been checked" in examination.remark(CARD)
    examination.record("cuda", "H200", passed=True, summary="40 ok")
    assert examination.remark(CARD) == ""


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    examination.record("cuda", "H200", passed=True, summary="40 ok")
    assert "has not been checked" in examination.remark(CARD)


@pytest.mark.parametrize(("rank", "said"), [(0, True), (1, False)])
def test_rank_0_of_a_training_says_it_at_its_start(monkeypatch, capsys, tmp_path, rank, said):
    from ds2f.config import Config
    from ds2f.runner import splits
    from ds2f.runner.device import backend
    from ds2f.runner.distributed import collectives, consistency
    from ds2f.runner.distributed.collectives import Group

    class AtTheLease(Exception):
        pass

    def stop(*_, **__):
        raise AtTheLease

    group = Group()
    group.rank = rank
    monkeypatch.setattr(splits, "read_all", lambda _: {})
    monkeypatch.setattr(splits, "digests", stop if rank else lambda _: {})
    monkeypatch.setattr(backend, "open_backend", lambda *_, **__: CARD)
    monkeypatch.setattr(collectives, "open_group", lambda *_, **__: group)
    monkeypatch.setattr(consistency, "require_same_settings", lambda *_, **__: None)
    monkeypatch.setattr(consistency, "require", lambda *_, **__: None)
    monkeypatch.setattr("ds2f.runner.run_lease.hold", stop)
    with pytest.raises(AtTheLease):
        train.train(Config(device="cuda"), tmp_path)
    assert ("doctor: H200" in capsys.readouterr().err) == said
