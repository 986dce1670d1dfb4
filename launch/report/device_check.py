"""The results of ``launch/check_device.sh``: one JSON file per device, and the tables made of such files.

As a program, ``python -m launch.report.device_check PARTS OUTPUT CORPUS`` collects the parts of a check.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ds2f.errors import InputError
from ds2f.files import json_text, read_bounded, write_atomically
from ds2f.text import shown
from launch.bench import trace_kinds
from launch.doctor.terminal_report import anonymous
from launch.tables import markdown_table

HEADINGS = ("device", "batch", "ours, utt/s", "usual way", "best imperative way")
KERNELS = "recurrent kernels"  # heading of launch.doctor's times
_PARTS = ("doctor", "hardware", "bench", "prepare", "training")
_LIMIT = 512 << 20  # bytes of a file; a profile is the largest


def collect(folder: Path, *, corpus: str) -> dict[str, Any]:
    """The results of all parts; a part that has failed leaves its status and its last words.

    Args:
      folder: logs, statuses and results of the parts.
      corpus: ``an4`` or ``synthetic``, which the training took.
    """
    doctor, bench = _json(folder / "doctor.json"), _json(folder / "bench.json")
    trained = _json(folder / "run" / "results.json")
    parts = {name: _part(folder, name) for name in _PARTS if (folder / f"{name}.status.json").exists()}
    return {
        "device": doctor.get("device", "unknown device"),
        "facts": doctor.get("facts", {}),
        "parts": parts,
        "doctor": {name: doctor.get(name) for name in ("summary", "passed", "lines")},
        "hardware_tests": _last(folder / "hardware.log", r"\d+ (passed|failed|skipped|error).*?(?= in |$)"),
        "bench": [_case(case) for case in bench.get("parts", {}).get("step", [])],
        "shares": trace_kinds.shares(_json(folder / "trace.json")),
        "corpus": corpus,
        "training": {name: trained.get(name) for name in ("epochs", "utterances_per_second", "wall_seconds", "amp")}
        if trained
        else {},
    }


def _part(folder: Path, name: str) -> dict[str, Any]:
    found = _json(folder / f"{name}.status.json")
    status = found.get("status", -1)
    problem = ""
    if status in (124, 137):
        problem = f"not done after {found.get('limit')} s"
    elif status:
        problem = f"status {status}: {anonymous(_last(folder / f'{name}.log', r'.*'))[:200]}"
    return {"seconds": found.get("seconds"), "problem": problem}


def _case(case: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "preset": case["preset"],
        "batch_size": case["batch_size"],
        "utterances_per_second": case["contestants"]["ours"]["utterances_per_second"],
        "ours_over": {name: ratio["total"] for name, ratio in case["ours_over"].items()},
    }


def stored(folder: Path) -> list[dict[str, Any]]:
    """The files of a folder of results, by name; none if there is no such folder.

    Raises:
      InputError: a file is damaged.
    """
    found = [(path, _json(path)) for path in sorted((folder / "devices").glob("*.json"))]
    for path, result in found:
        if not {"device", "parts", "bench", "corpus", "training"} <= set(result):
            raise InputError(f"{path}: no result of launch/check_device.sh; remove it, or check the device again")
    return [result for _, result in found]


def rows(results: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of the tables: speeds of each device, then what else was found on it."""
    yield from markdown_table(HEADINGS, [cells for result in results for cells in _cells(result)])
    yield ""
    for result in results:
        yield f"- **{_text(result['device'])}**: {'; '.join(_remarks(result))}."


def _cells(result: Mapping[str, Any]) -> Iterator[list[str]]:
    for case in result["bench"]:
        name = f"{_text(result['device'])}, {case['preset'].replace('x', ' x ')}"
        ratios = [case["ours_over"].get(which) for which in ("usual", "best")]
        speed = f"{case['utterances_per_second']:.3g}"
        yield [name, str(case["batch_size"]), speed, *(f"{ratio:.2f}" if ratio else "" for ratio in ratios)]


def _remarks(result: Mapping[str, Any]) -> Iterator[str]:
    facts = [
        f"{name} {result['facts'][name]}"
        for name in ("torch", "torch_npu", "CANN", "driver")
        if name in result.get("facts", {})
    ]
    if facts:
        yield _text(", ".join(facts))
    if result.get("doctor", {}).get("summary"):
        yield f"doctor: {_text(result['doctor']['summary'])}"
    if result.get("hardware_tests"):
        yield f"tests for hardware: {_text(result['hardware_tests'])}"
    for line in result.get("doctor", {}).get("lines") or ():
        if line.get("group") == KERNELS:
            yield f"{_text(line['name'])}: {_text(line['found'])}"
    if result.get("shares"):
        yield "time of a step: " + ", ".join(
            f"{kind} {100 * share:.0f} %" for kind, share in result["shares"].items() if share >= 0.005
        )
    speed = result["training"].get("utterances_per_second")
    if speed:
        corpus = {"an4": "AN4", "synthetic": "the synthetic corpus"}.get(result["corpus"], "another corpus")
        yield f"{result['training']['epochs']} epochs on {corpus}: {speed:.3g} utt/s"
    for name, part in result["parts"].items():
        if part["problem"]:
            yield f"{_text(name)} failed: {_text(part['problem'])}"


def _text(value: Any) -> str:
    """A text of a file as it can stand in a table of Markdown."""
    return re.sub(r"([|<>`])", r"\\\1", shown(str(value)))


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where the part has left none, or half of one."""
    try:
        found = json.loads(read_bounded(path, _LIMIT, remedy="It is no result of a part."))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _last(path: Path, pattern: str) -> str:
    """The match of a pattern in the last line of a log that has one; empty without any."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    matches = (re.search(pattern, line) for line in reversed(lines) if line.strip())
    return next((shown(match.group()) for match in matches if match), "")


def file_name(device: str) -> str:
    """The name of a device's file, without suffix.

    >>> file_name("cuda: NVIDIA H200")
    'cuda_nvidia_h200'
    """
    return re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_") or "device"


def main(folder: str, output: str, corpus: str) -> int:
    """Writes the files of a check and prints its table. Status 1: a part has failed."""
    result = collect(Path(folder), corpus=corpus)
    table = "\n".join(rows([result])) + "\n"
    target = Path(output) / file_name(result["device"])
    write_atomically(target.with_suffix(".json"), json_text(result, indent=1) + "\n")
    write_atomically(target.with_suffix(".md"), table)
    print(f"\n{table}\nwrote {shown(str(target))}.json and .md")
    return int(any(part["problem"] for part in result["parts"].values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
