"""Damaged inputs of every kind, the same ones every time: what a user may have on the disk or type by mistake.

A case writes its damage into a folder that holds a corpus called ``tones`` and a trained ``run``, and says which
command meets it and which words, the name of a file or flag, the command must answer with.
"""

import csv
import gzip
import io
import json
import os
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 16000
TRAIN = (
    *("--device=cpu", "--data.dataset=tones", "--data.batch_size=4", "--data.num_workers=0", "--data_path=."),
    *("--model.hidden_size=4", "--model.hidden_layers=1", "--apex.opt_level=O0", "--run_dir=new"),
    *(
        "--optim.schedule=constant",
        "--optim.learning_rate=0.01",
        "--training.epochs=1",
        "--novisualization.tensorboard",
    ),
)
EVALUATE = ("--run_dir=run", "--save_output=saved.json")
PREPARE = ("--dataset=an4", "--data_path=prepared")

REFUSED = "refused"  # status 1, one message, nothing left behind
TOLD = "told"  # refused, or done and the damage reported
FINE = "fine"  # harmless, and must do no harm


class Case(NamedTuple):
    """One damaged input."""

    id: str
    module: str  # of launch
    damage: Callable[[Path, random.Random], tuple[str, ...]]  # into this folder; returns flags
    ends: str
    names: str = ""  # what must be said


def cases() -> list[Case]:
    """All of them."""
    return [*_audio(), *_odd_files(), *_transcripts(), *_manifests(), *_labels(), *_flags(), *_runs(), *_archives()]


# Recordings


FORMATS = {
    "wav": ("WAV", "PCM_16", ".wav"),
    "float": ("WAV", "FLOAT", ".wav"),
    "flac": ("FLAC", "PCM_16", ".flac"),
    "vorbis": ("OGG", "VORBIS", ".ogg"),
    "opus": ("OGG", "OPUS", ".ogg"),
    "mp3": ("MP3", "MPEG_LAYER_III", ".mp3"),
    "sphere": ("NIST", "PCM_16", ".sph"),
}
SPOILED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": lambda content, draw: content[: draw.randrange(len(content) // 5, len(content) * 9 // 10)],
    "stub": lambda content, draw: content[: draw.randrange(1, 40)],
    "empty": lambda content, draw: b"",
    "noise": lambda content, draw: draw.randbytes(len(content)),
    "beheaded": lambda content, draw: draw.randbytes(64) + content[64:],
    "page": lambda content, draw: b"<html><body>404 Not Found</body></html>\n" * 20,
}


def _encoded(samples, container: str, subtype: str, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def _speech(seed: int = 0, size: int = RATE):
    return np.random.default_rng(seed).normal(0, 0.1, size).astype(np.float32)


def _given(content: bytes | Callable[[random.Random], bytes], name: str, *more: str, split: str = ""):
    """A damage: another recording in a manifest."""

    def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
        (folder / name).write_bytes(content(draw) if callable(content) else content)
        return (*_add(folder, name, split or "train"), *more)

    return damage


def _add(folder: Path, name: str, split: str) -> tuple[str, ...]:
    (folder / "odd.txt").write_text("ABC\n")
    with (folder / f"tones_{split}_manifest.csv").open("a", newline="") as file:
        csv.writer(file).writerow([name, "odd.txt"])
    return ()


def _recording(id: str, content, name: str = "odd.wav", ends: str = TOLD, names: str | None = None) -> list[Case]:
    """The same recording to train on, to validate with, and to evaluate, where it cannot be left out."""
    said = name if names is None else names
    strict = REFUSED if ends == TOLD else ends
    trained = Case(f"audio-{id}-train", "train", _given(content, name), ends, said)
    evaluated = Case(f"audio-{id}-evaluate", "evaluate", _given(content, name, split="test"), strict, said)
    return [trained, evaluated]


def _audio() -> list[Case]:
    found: list[Case] = []
    for index, (kind, (container, subtype, suffix)) in enumerate(FORMATS.items()):
        good = _encoded(_speech(), container, subtype)
        for number, (spoiled, spoil) in enumerate(SPOILED.items()):
            if (kind, spoiled) == ("mp3", "beheaded"):
                continue  # what is left is an MP3 without an index, of which nobody can say that it lacks something
            made = _recording(f"{kind}-{spoiled}", lambda draw, s=spoil, g=good: s(g, draw), f"odd{suffix}")
            found.append(made[(index + number) % 2])
        if kind in ("flac", "vorbis", "opus"):
            found += _recording(f"{kind}-flipped", lambda draw, g=good: _flipped(g, draw, 0.5), f"odd{suffix}")
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("absurd", 3e38)):
        samples = _speech()
        samples[1000] = value
        found += _recording(f"float-{name}", _encoded(samples, "WAV", "FLOAT"))
    found += _recording("wav-7-bits", _wav(bits=7), ends=FINE, names="")[:1]
    found += [made for id, content in _wav_headers().items() for made in _recording(f"wav-{id}", content)[:1]]
    flac = bytearray(_encoded(_speech(), "FLAC", "PCM_16"))
    flac[21:26] = bytes((flac[21] | 15, 255, 255, 255, 255))  # 36 bits: the number of samples
    found += _recording("flac-endless", bytes(flac), "odd.flac")
    sphere = _encoded(_speech(), "NIST", "PCM_16")
    for id, count in (("endless", b"999999999999"), ("wordy", b"many")):
        found += _recording(
            f"sphere-{id}", sphere.replace(b"-i 16000\n", b"-i " + count + b"\n", 1)[: len(sphere)], "odd.sph"
        )
    return found


def _wav(samples: bytes = bytes(8000), *, rate=RATE, channels=1, bits=16, kind=1, size=None, chunks=b"") -> bytes:
    width = channels * bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, kind, channels, rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    data = struct.pack("<4sI", b"data", len(samples) if size is None else size) + samples
    body = b"WAVE" + head + chunks + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _wav_headers() -> dict[str, bytes]:
    return {
        "rate-0": _wav(rate=0),
        "rate-1": _wav(b"\1\0" * 4000, rate=1),
        "rate-2e31": _wav(b"\1\0" * 4000, rate=2**31),
        "channels-0": _wav(channels=0),
        "channels-65535": _wav(channels=65535),
        "bits-0": _wav(bits=0),
        "format-unknown": _wav(kind=0x7777),
        "size-too-large": _wav(size=0x7FFF0000),
        "no-samples": _wav(b""),
        "no-data": _wav()[:36],
        "chunk-too-large": _wav(chunks=struct.pack("<4sI", b"LIST", 0x7FFFFFF0)),
        "only-chunks": b"RIFF\xff\xff\xff\0WAVE" + bytes(100_000),
    }


def _flipped(content: bytes, draw: random.Random, start: float = 0.0) -> bytes:
    at = draw.randrange(int(start * len(content)), len(content))
    return content[:at] + bytes([content[at] ^ draw.randrange(1, 256)]) + content[at + 1 :]


def _odd_files() -> list[Case]:
    """What is no recording at all, and what only looks strange."""

    def made(make: Callable[[Path], object], name: str = "odd.wav", split: str = "train"):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            make(folder / name)
            return _add(folder, name, split)

        return damage

    files: dict[str, Callable[[Path], object]] = {
        "missing": lambda path: None,
        "folder": lambda path: path.mkdir(),
        "pipe": lambda path: os.mkfifo(path),
        "loop": lambda path: path.symlink_to(path),
        "dangling": lambda path: path.symlink_to("nowhere.wav"),
        "device": lambda path: path.symlink_to("/dev/zero"),
    }
    found = [
        Case(f"audio-{id}-{module}", module, made(make, split=split), REFUSED, "odd.wav")
        for id, make in files.items()
        for module, split in (("train", "train"), ("evaluate", "test"))
    ]
    found.append(Case("audio-missing-val", "train", made(files["missing"], split="val"), REFUSED, "odd.wav"))
    found.append(Case("audio-raw", "train", _given(bytes(8000), "odd.raw"), REFUSED, "odd.raw"))
    spoken, nan = _encoded(_speech(), "WAV", "PCM_16"), _encoded(_speech() * np.nan, "WAV", "FLOAT")
    found.append(Case("audio-nan-val", "train", _given(nan, "odd.wav", split="val"), TOLD, "odd.wav"))
    strict = _given(nan, "odd.wav", "--data.max_unreadable=0", split="val")
    found.append(Case("audio-nan-val-not-allowed", "train", strict, REFUSED, "odd.wav"))
    found.append(
        Case("audio-nan-not-allowed", "train", _given(nan, "odd.wav", "--data.max_unreadable=0"), REFUSED, "odd.wav")
    )
    worker = "--data.num_workers=1"
    found.append(Case("audio-nan-in-worker", "train", _given(nan, "odd.wav", worker), TOLD, "odd.wav"))
    found.append(
        Case(
            "audio-nan-in-worker-not-allowed",
            "train",
            _given(nan, "odd.wav", worker, "--data.max_unreadable=0"),
            REFUSED,
            "odd.wav",
        )
    )
    stereo = np.stack([_speech(1), _speech(2)], axis=1)
    found += [
        *_recording("stereo", _encoded(stereo, "WAV", "PCM_16"), ends=FINE, names="")[:1],
        *_recording("44100-hertz", _encoded(_speech(), "WAV", "PCM_16", 44100), ends=FINE, names="resampled")[:1],
        *_recording("silent", _encoded(_speech() * 0, "WAV", "PCM_16"), ends=FINE, names="silent")[:1],
        *_recording("one-sample", _encoded(_speech(size=1), "WAV", "PCM_16"), ends=FINE, names="too short"),
        *_recording("named-otherwise", spoken, "odd.flac", ends=FINE, names=""),
        *_recording("odd-name", spoken, "ä, \"b\" 'c' [d] %s\U0001f600.wav", ends=FINE, names="")[:1],
    ]

    def added(kind: str, content: bytes | None):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            (folder / kind).mkdir()
            if content is not None:
                (folder / kind / "hum.wav").write_bytes(content)
            return (f"--augmentation.{kind}_dir={kind}", f"--augmentation.{kind}_prob=1")

        return damage

    for kind in ("noise", "reverb"):
        found.append(Case(f"{kind}-broken", "train", added(kind, b"RIFF"), TOLD, "hum.wav"))
        found.append(Case(f"{kind}-none", "train", added(kind, None), REFUSED, f"{kind}_dir"))
    found.append(Case("reverb-silent", "train", added("reverb", _encoded(_speech() * 0, "WAV", "PCM_16")), FINE, ""))
    return found


def _transcripts() -> list[Case]:
    def written(content: bytes, *more: str, split: str = "train"):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            (folder / f"{split}0.txt").write_bytes(content)
            return more

        return damage

    def gone(folder: Path, draw: random.Random) -> tuple[str, ...]:
        (folder / "train0.txt").unlink()
        return ()

    def folder_instead(folder: Path, draw: random.Random) -> tuple[str, ...]:
        gone(folder, draw)
        (folder / "train0.txt").mkdir()
        return ()

    name = "train0"
    return [
        Case("transcript-missing", "train", gone, REFUSED, name),
        Case("transcript-folder", "train", folder_instead, REFUSED, name),
        Case("transcript-utf-16", "train", written("ABC".encode("utf-16")), REFUSED, name),
        Case("transcript-latin-1", "evaluate", written("É".encode("latin-1"), split="test"), REFUSED, "test0"),
        Case("transcript-nul", "train", written(b"A\0B"), REFUSED, name),
        Case("transcript-unknown", "train", written(b"A?B"), REFUSED, name),
        Case("transcript-dropped", "train", written(b"A?B", "--data.unknown_characters=drop_utterance"), FINE, name),
        Case("transcript-stripped", "train", written(b"A?B", "--data.unknown_characters=drop_character"), FINE, name),
        Case("transcript-empty", "train", written(b""), FINE, "empty"),
        Case("transcript-endless", "train", written(b"ABC" * 50_000), FINE, name),
        Case("transcript-windows", "train", written(b"\xef\xbb\xbfABC\r\n"), FINE),
    ]


# Manifests


def _manifests() -> list[Case]:
    row = "train0.wav,train0.txt\n"
    where = "tones_train_manifest.csv"
    texts: dict[str, tuple[str | bytes, str]] = {
        "empty": ("", REFUSED),
        "blank": (" \n\n\t\n", REFUSED),
        "binary": (bytes(range(256)) * 4, REFUSED),
        "utf-16": (row.encode("utf-16"), FINE),
        "latin-1": ("träin0.wav,train0.txt\n".encode("latin-1"), REFUSED),
        "nul": ("train\0.wav,train0.txt\n", REFUSED),
        "nul-transcript": ("train0.wav,tr\0ain0.txt\n", REFUSED),
        "one-column": (row + "train1.wav\n", REFUSED),
        "three-columns": (row + "train1.wav,train1.txt,2.5\n", REFUSED),
        "semicolons": (row.replace(",", ";"), FINE),
        "tabs": (row.replace(",", "\t"), FINE),
        "open-quote": (row + '"train1.wav,train1.txt\n', REFUSED),
        "no-recording": (",train0.txt\n", REFUSED),
        "no-transcript": ("train0.wav,\n", REFUSED),
        "heading": ("audio,transcript\n" + row, FINE),
        "odd-heading": ("audio,words\n" + row, REFUSED),
        "swapped": ("train0.txt,train0.wav\n", REFUSED),
        "itself": (f"{where},{where}\n", REFUSED),
        "absolute": ("/nowhere/a.wav,/nowhere/a.txt\n", REFUSED),
        "relative": ("../../nowhere/a.wav,a.txt\n", REFUSED),
        "long-name": (f"{'a' * 5000}.wav,a.txt\n", REFUSED),
        "long-line": (f"{'a' * 2_000_000}.wav,a.txt\n", REFUSED),
        "many-missing": ("".join(f"{n}.wav,{n}.txt\n" for n in range(3000)), REFUSED),
        "html": ("<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", REFUSED),
        "json": ('{"samples": []}\n', REFUSED),
        "lfs-pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", REFUSED),
        "twice": (row + "train1.wav,train1.txt\n" + row, FINE),
        "windows": ("\ufeff" + row.replace("\n", "\r\n") + "train1.wav,train1.txt\r\n", FINE),
        "no-end-of-line": (row + "train1.wav,train1.txt", FINE),
    }

    def written(content: str | bytes, name: str = where, *flags: str):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
            return flags

        return damage

    found = [
        Case(
            f"manifest-{id}",
            "train",
            written(text),
            ends,
            "repeated" if id == "twice" else "" if ends == FINE else where,
        )
        for id, (text, ends) in texts.items()
    ]
    one = {"wav_path": "train0.wav", "transcript_path": "train0.txt"}
    listings: dict[str, tuple[str, str]] = {
        "empty": ("", REFUSED),
        "broken": ('{"samples": [', REFUSED),
        "csv": (row, REFUSED),
        "list": (json.dumps([one]), FINE),
        "number": ("7", REFUSED),
        "nothing": ("{}", REFUSED),
        "none": ('{"samples": []}', REFUSED),
        "mapping": (json.dumps({"samples": {"a": one}}), REFUSED),
        "strings": ('{"samples": ["train0.wav"]}', REFUSED),
        "half": ('{"samples": [{"wav_path": "train0.wav"}]}', REFUSED),
        "nulls": ('{"samples": [{"wav_path": null, "transcript_path": null}]}', REFUSED),
        "nul": (json.dumps({"samples": [one | {"wav_path": "a\0.wav"}]}), REFUSED),
        "surrogate": ('{"samples": [{"wav_path": "\\udc80.wav", "transcript_path": "\\ud800"}]}', REFUSED),
        "root": (json.dumps({"root_path": "nowhere", "samples": [one]}), REFUSED),
        "root-list": (json.dumps({"root_path": [1], "samples": [one]}), REFUSED),
        "deep": ("[" * 100_000, REFUSED),
        "digits": ('{"samples": ' + "9" * 10_000 + "}", REFUSED),
        "good": (json.dumps({"samples": [one]}), FINE),
    }
    found += [
        Case(
            f"manifest-json-{id}",
            "train",
            written(text, "m.json", "--data.train_manifest=m.json"),
            ends,
            "" if ends == FINE else "m.json",
        )
        for id, (text, ends) in listings.items()
    ]

    def folders(*names: str):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            for name in names:
                (folder / name).mkdir(parents=True)
            return ("--data.test_manifest=m",)

        return damage

    found += [
        Case("manifest-missing", "train", lambda *_: ("--data.val_manifest=nowhere.csv",), REFUSED, "nowhere.csv"),
        Case("manifest-long-path", "train", lambda *_: (f"--data.val_manifest={'n' * 5000}",), REFUSED, "nnn"),
        Case("manifest-is-recording", "train", lambda *_: ("--data.val_manifest=val0.wav",), REFUSED, "val0.wav"),
        Case(
            "manifest-in-file", "train", lambda *_: ("--data.val_manifest=val0.wav/m.csv",), REFUSED, "val0.wav/m.csv"
        ),
        Case("manifest-empty-folder", "evaluate", folders("m"), REFUSED, "m:"),
        Case("manifest-half-folder", "evaluate", folders("m/wav"), REFUSED, "m:"),
        Case("manifest-bare-folder", "evaluate", folders("m/wav", "m/txt"), REFUSED, "m:"),
    ]
    return found


def _labels() -> list[Case]:
    texts: dict[str, str | bytes] = {
        "empty": "",
        "words": "A B C",
        "mapping": '{"A": 1}',
        "numbers": "[1, 2, 3]",
        "nested": '[["_"], ["A"]]',
        "no-blank": '["A", "B", "C"]',
        "two-blanks": '["_", "A", "_"]',
        "doubles": '["_", "A", "B", "C", "A"]',
        "long": '["_", "AB", "C"]',
        "none": "[]",
        "utf-16": '["_", "A"]'.encode("utf-16"),
        "binary": bytes(range(256)),
        "deep": "[" * 100_000,
    }

    def written(content: str | bytes):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            (folder / "labels.json").write_bytes(content.encode() if isinstance(content, str) else content)
            return ("--data.labels_path=labels.json",)

        return damage

    found = [Case(f"labels-{id}", "train", written(text), REFUSED, "label") for id, text in texts.items()]
    too_few = Case("labels-too-few", "train", written('["_", "A"]'), REFUSED, "labels")
    missing = Case("labels-missing", "train", lambda *_: ("--data.labels_path=nowhere.json",), REFUSED, "nowhere.json")
    folder = Case("labels-folder", "train", lambda *_: ("--data.labels_path=run",), REFUSED, "labels_path")
    return [*found, too_few, missing, folder]


# Flags


def _flags() -> list[Case]:
    train: dict[str, tuple[str, ...]] = {
        "unknown": ("--data.batchsize=3", "data.batchsize"),
        "derived": ("--model.num_bins=3", "model.num_bins"),
        "no-value": ("--data.batch_size", "data.batch_size"),
        "words": ("--data.batch_size=many", "data.batch_size"),
        "zero": ("--data.batch_size=0", "data.batch_size"),
        "negative": ("--data.num_workers=-1", "data.num_workers"),
        "fraction": ("--training.epochs=1.5", "training.epochs"),
        "nan": ("--optim.learning_rate=nan", "optim.learning_rate"),
        "infinite": ("--optim.learning_rate=inf", "optim.learning_rate"),
        "choice": ("--optim.name=adam2", "optim.name"),
        "boolean": ("--model.bidirectional=maybe", "model.bidirectional"),
        "list": ("--augmentation.speeds=0.9,,1.1", "augmentation.speeds"),
        "range": ("--augmentation.speeds=100", "augmentation.speeds"),
        "unicode": ("--data.batch_size=٤٤٤x", "data.batch_size"),
        "dash": ("\u2014data.batch_size=4", "data.batch_size"),
        "stray": ("stray.wav", "stray.wav"),
        "scale": ("--apex.loss_scale=dynamite", "loss_scale"),
        "scale-negative": ("--apex.loss_scale=-8", "loss_scale"),
        "tempo": ("--augmentation.tempo_min=1.2", "tempo_min"),
        "codec": ("--augmentation.codecs=ulaw,amr", "augmentation.codecs"),
        "band": ("--augmentation.band_prob=1", "--augmentation.band_min_high=100", "band_min_high"),
        "noam": ("--optim.schedule=noam", "--optim.learning_rate=1e-4", "optim.learning_rate"),
        "window": ("--spect.window_size=1e-9", "spect.window_size"),
        "window-endless": ("--spect.window_size=1e9", "spect.window_size"),
        "views": ("--model.consistency=0.2", "augmentation.frequency_masks"),
        "machines": ("--nnodes=2:1", "nnodes"),
        "machines-words": ("--nnodes=two", "nnodes"),
        "machines-alone": ("--nnodes=2", "rdzv"),
        "model-endless": ("--model.hidden_size=100000000000", "hidden_size"),
        "layers-endless": ("--model.lookahead_context=99999999999", "--nomodel.bidirectional", "lookahead_context"),
        "batch-endless": ("--data.batch_size=99999999999999999999999", ""),
        "seed-endless": ("--training.seed=99999999999999999999999", ""),
        "seed-negative": ("--training.seed=-1", "training.seed"),
        "nothing-left": ("--data.min_duration=1000", "data.min_duration"),
        "nothing-short": ("--data.max_duration=0.001", "data.max_duration"),
        "data-missing": ("--data_path=nowhere", "nowhere"),
        "data-file": ("--data_path=train0.wav", "train0.wav"),
        "run-file": ("--run_dir=train0.wav", "train0.wav"),
        "run-in-file": ("--run_dir=train0.wav/run", "train0.wav"),
        "run-taken": ("--run_dir=run", "run"),
        "run-bytes": ("--run_dir=caf\udce9", "caf"),
        "data-bytes": ("--data_path=caf\udce9", "caf"),
        "start-missing": ("--checkpointing.continue_from=nowhere", "nowhere"),
        "warpctc": ("--model.ctc=warpctc", "warpctc"),
        "device": ("--device=npu", "npu"),
        "device-unknown": ("--device=tpu", "device"),
        "flagfile-missing": ("--flagfile=nowhere.flags", "nowhere.flags"),
        "flagfile-folder": ("--flagfile=run", "run"),
        "flagfile-binary": ("--flagfile=train0.wav", "flagfile"),
    }
    fine = ("batch-endless", "seed-endless")
    found = [
        Case(f"flag-{id}", "train", lambda *_, given=given: given, FINE if id in fine else REFUSED, said)
        for id, (*given, said) in train.items()
    ]
    evaluate: dict[str, tuple[str, ...]] = {
        "which-word": ("--which=worst", "worst"),
        "which-number": ("--which=999", "999"),
        "which-negative": ("--which=-1", "-1"),
        "split": ("--split=dev", "split"),
        "run-missing": ("--run_dir=nowhere", "nowhere"),
        "run-none": ("--run_dir=", "run_dir"),
        "run-file": ("--run_dir=test0.wav", "test0.wav"),
        "not-its-own": ("--training.epochs=3", "training.epochs"),
        "model": ("--model.hidden_size=8", "model.hidden_size"),
        "data-missing": ("--data_path=nowhere", "nowhere"),
        "output-nowhere": ("--save_output=nowhere/saved.json", "nowhere/saved.json"),
        "output-folder": ("--save_output=run", "run"),
        "results-nowhere": ("--save_results=nowhere/saved.json", "nowhere/saved.json"),
    }
    found += [
        Case(f"flag-evaluate-{id}", "evaluate", lambda *_, given=given: given, REFUSED, said)
        for id, (*given, said) in evaluate.items()
    ]

    def flagfile(text: str | bytes):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            (folder / "odd.flags").write_bytes(text.encode() if isinstance(text, str) else text)
            return ("--flagfile=odd.flags",)

        return damage

    files: dict[str, tuple[str | bytes, str, str]] = {
        "itself": ("--flagfile=odd.flags\n", TOLD, "odd.flags"),
        "unknown": ("--data.batchsize=3\n", REFUSED, "data.batchsize"),
        "stray": ("data.batch_size=3\n", REFUSED, "data.batch_size"),
        "comment-behind": ("--data.batch_size=3  # small\n", REFUSED, "data.batch_size"),
        "utf-16": ("--data.batch_size=3\n".encode("utf-16"), FINE, ""),
        "utf-16-cut": ("--data.batch_size=3\n".encode("utf-16")[:-1], REFUSED, "flagfile"),
        "nested-missing": ("--flagfile=nowhere.flags\n", REFUSED, "nowhere.flags"),
        "windows": ("# comment\r\n--data.batch_size=3\r\n", FINE, ""),
        "empty": ("", FINE, ""),
    }
    found += [Case(f"flagfile-{id}", "train", flagfile(text), ends, said) for id, (text, ends, said) in files.items()]
    return found


# Runs


def _runs() -> list[Case]:
    spoils: dict[str, Callable[[Path, random.Random], object]] = {
        "missing": lambda path, draw: path.unlink(),
        "empty": lambda path, draw: path.write_bytes(b""),
        "truncated": lambda path, draw: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "flipped": lambda path, draw: path.write_bytes(_flipped(path.read_bytes(), draw)),
        "noise": lambda path, draw: path.write_bytes(draw.randbytes(500)),
    }

    def config(change: Callable[[str], str]):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            path = folder / "run" / "config.json"
            path.write_text(change(path.read_text()))
            return ()

        return damage

    resume = ("--run_dir=run", "--checkpointing.load_auto_checkpoint")
    found = []
    for id in ("missing", "empty", "truncated", "noise"):

        def damage(folder: Path, draw: random.Random, spoil=spoils[id]) -> tuple[str, ...]:
            spoil(folder / "run" / "config.json", draw)
            return ()

        found.append(Case(f"run-config-{id}", "evaluate", damage, REFUSED, "config.json"))
        if id != "missing":
            again = Case(
                f"run-config-{id}-train", "train", lambda f, d, m=damage: m(f, d) + resume, FINE, "config.json"
            )
            found.append(again)
    changes: dict[str, tuple[Callable[[str], str], str]] = {
        "list": (lambda text: "[]", "config.json"),
        "number": (lambda text: "3", "config.json"),
        "unknown": (lambda text: text.replace('"batch_size"', '"batch_sizes"'), "batch_sizes"),
        "type": (lambda text: text.replace('"hidden_size": 4', '"hidden_size": "4"'), "hidden_size"),
        "range": (lambda text: text.replace('"hidden_size": 4', '"hidden_size": -4'), "hidden_size"),
        "section": (lambda text: text.replace('"model": {', '"model": 1, "modl": {'), "model"),
        "other-model": (lambda text: text.replace('"hidden_size": 4', '"hidden_size": 5'), "another model"),
    }
    found += [
        Case(f"run-config-{id}", "evaluate", config(change), REFUSED, said) for id, (change, said) in changes.items()
    ]
    for row, (id, spoil) in enumerate(spoils.items()):
        for column, which in enumerate(("largest", "smallest", "metadata", "digests")):
            module, more = (("evaluate", ("--which=last",)), ("train", resume))[(row + column) % 2]

            def damage(folder: Path, draw: random.Random, spoil=spoil, which=which, more=more) -> tuple[str, ...]:
                spoil(_of_checkpoint(folder / "run", which), draw)
                return more

            found.append(Case(f"checkpoint-{which}-{id}-{module}", module, damage, TOLD, "checkpoints/2/"))

    def every(folder: Path, draw: random.Random) -> tuple[str, ...]:
        for path in (folder / "run" / "checkpoints").rglob("*"):
            if path.is_file() and path.stat().st_size:
                path.write_bytes(_flipped(path.read_bytes(), draw))
        return ()

    found.append(Case("checkpoints-all-flipped", "evaluate", every, REFUSED, "checkpoints/2/"))
    found.append(
        Case("checkpoints-all-flipped-train", "train", lambda f, d: every(f, d) + resume, TOLD, "checkpoints/2/")
    )
    return found


def _of_checkpoint(run: Path, which: str) -> Path:
    newest = max((path for path in (run / "checkpoints").iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))
    if which == "digests":
        return newest / "digests.json"
    files = sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size)
    if which == "metadata":
        return next(path for path in files if path.name == "_METADATA")
    return (max if which == "largest" else min)(files, key=lambda path: path.stat().st_size)


# Archives


def _archives() -> list[Case]:
    sound = _encoded(_speech(), "NIST", "PCM_16")
    tree = {
        "an4/etc/an4_train.fileids": b"an4_clstk/fash/a\n",
        "an4/etc/an4_test.fileids": b"an4test_clstk/fcaw/b\n",
        "an4/etc/an4_train.transcription": b"<s> YES </s> (a)\n",
        "an4/etc/an4_test.transcription": b"NO (b)\n",
        "an4/wav/an4_clstk/fash/a.sph": sound,
        "an4/wav/an4test_clstk/fcaw/b.sph": sound,
    }

    def tarred(files: dict[str, bytes], *links: tuple[str, str]) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            for name, target in links:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, target
                archive.addfile(link)
        return file.getvalue()

    def zipped(files: dict[str, bytes]) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return file.getvalue()

    good, zip_ = tarred(tree), zipped(tree)
    locked = bytearray(zip_)
    locked[6] |= 1  # the first member is encrypted, says its header
    directory = zip_.index(b"PK\1\2")
    locked[directory + 8] |= 1
    contents: dict[str, bytes] = {
        "other-corpus.tar.gz": good,
        "other-corpus.zip": zip_,
        "truncated.tar.gz": good[: len(good) // 2],
        "stub.tar.gz": good[:15],
        "empty.tar.gz": b"",
        "noise.tar.gz": random.Random(1).randbytes(5000),
        "page.tar.gz": b"<html>Sign in</html>" * 50,
        "gzip-of-nothing.tar.gz": gzip.compress(b""),
        "gzip-of-noise.tar.gz": gzip.compress(random.Random(2).randbytes(5000)),
        "flipped.tar.gz": _flipped(good, random.Random(3), 0.3),
        "truncated.zip": zip_[: len(zip_) // 2],
        "beheaded.zip": bytes(50) + zip_[50:],
        "flipped.zip": zip_[:400] + bytes(40) + zip_[440:],
        "locked.zip": bytes(locked),
        "wandering.tar.gz": tarred(tree | {"../../evil.txt": b"evil", "/tmp/../evil.txt": b"evil"}),
        "linked.tar.gz": tarred(tree, ("an4/wav/an4_clstk/fash/c.sph", "/etc/passwd"), ("an4/wav/x", "../../..")),
        "no-lists.tar.gz": tarred({name: content for name, content in tree.items() if "/wav/" in name}),
        "no-recordings.tar.gz": tarred({name: content for name, content in tree.items() if "/etc/" in name}),
        "odd-lists.tar.gz": tarred(tree | {"an4/etc/an4_train.transcription": b"\xff\xfe no\n"}),
        "odd-ids.tar.gz": tarred(tree | {"an4/etc/an4_train.fileids": b"../../../evil\n"}),
        "broken-recording.tar.gz": tarred(tree | {"an4/wav/an4_clstk/fash/a.sph": sound[:500]}),
        "no-recording.tar.gz": tarred(tree | {"an4/wav/an4_clstk/fash/a.sph": b"hello"}),
        "slow-recording.tar.gz": tarred(
            tree | {"an4/wav/an4_clstk/fash/a.sph": _encoded(_speech(), "NIST", "PCM_16", 8000)}
        ),
    }

    def written(name: str, content: bytes):
        def damage(folder: Path, draw: random.Random) -> tuple[str, ...]:
            (folder / name).write_bytes(content)
            return (f"--archive={name}",)

        return damage

    found = [
        Case(f"archive-{name}", "prepare", written(name, content), REFUSED, name) for name, content in contents.items()
    ]
    others: dict[str, tuple[str, ...]] = {
        "missing": ("--archive=nowhere.tar.gz", "nowhere.tar.gz"),
        "folder": ("--archive=run", "run"),
        "recording": ("--archive=train0.wav", "train0.wav"),
        "manifest": ("--archive=tones_train_manifest.csv", "tones_train_manifest.csv"),
        "corpus": ("--dataset=librispeech", "dataset"),
        "counts": ("--dataset=synthetic", "--utterances=1,2", "utterances"),
        "counts-words": ("--dataset=synthetic", "--utterances=a,b,c", "utterances"),
        "counts-zero": ("--dataset=synthetic", "--utterances=0,1,1", "utterances"),
        "seed": ("--dataset=synthetic", "--seed=-3", "seed"),
        "workers": ("--dataset=synthetic", "--num_workers=x", "num_workers"),
        "place-file": ("--dataset=synthetic", "--utterances=1,1,1", "--data_path=train0.wav", "train0.wav"),
        "place-in-file": ("--dataset=synthetic", "--utterances=1,1,1", "--data_path=train0.wav/x", "train0.wav"),
    }
    found += [
        Case(f"prepare-{id}", "prepare", lambda *_, given=given: given, REFUSED, said)
        for id, (*given, said) in others.items()
    ]
    return found
