"""Says in a minute what this machine can do and what would fail: python -m launch.doctor [--device=npu]."""

import sys
import time
from pathlib import Path

from absl import flags as absl_flags

from ds2f import config
from ds2f.config import Config, OptimConfig
from launch import flags

BASE = Config(optim=OptimConfig(schedule="constant", learning_rate=3e-4))

sys.argv[0] = str(Path(__file__).parent)  # the program name in messages and --help
FLAGS = absl_flags.FLAGS
flags.define(only=("device", "run_dir", "model.hidden_layers", "model.hidden_size"))
absl_flags.DEFINE_string("json", "", "Also write the report to this file, without names of paths, hosts and users.")


def main(_: list[str]) -> int:
    """Runs the checks, prints a line for each and a bundle for bug reports. Status 1: training would fail."""
    cfg = config.resolve(flags.config_from_flags(BASE, run_dir="runs"))
    target = flags.output_file("json")

    from ds2f.files import json_text, write_atomically
    from ds2f.runner.device import examination
    from launch.doctor import isolation, report_file, terminal_report
    from launch.doctor.verdict import Line, passed, summary

    group = ""

    def show(line: Line) -> None:
        nonlocal group
        _tell_progress("")
        if line.group != group:
            print(terminal_report.heading(line.group))
            group = line.group
        print("\n".join(terminal_report.rows(line)), flush=True)

    began = time.monotonic()
    lines = isolation.run(cfg, show, _tell_progress)
    _tell_progress("")
    report = report_file.report(cfg, lines)
    if any(line.verdict != "ok" for line in lines):
        print("\nTo paste into a bug report:\n")
        print("\n".join(terminal_report.bundle(report["facts"], lines)))
    last = f"{report['device']}, {time.monotonic() - began:.0f} s: {summary(lines)}"
    print("", *terminal_report.paragraph(last), sep="\n")
    for description in dict.fromkeys(report_file.cards(lines)):
        examination.record(report["facts"]["kind"], description, passed=report["passed"], summary=report["summary"])
    if target:
        write_atomically(target, json_text(report, indent=1) + "\n")
    return 0 if passed(lines) else 1


def _tell_progress(name: str) -> None:
    """Shows the check under way on a terminal; an empty name clears the line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{f'checking {name}'[:79] if name else ''}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    flags.run(main)
