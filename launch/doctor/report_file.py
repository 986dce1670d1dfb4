"""The report of a device as JSON, without names of paths, hosts and users."""

import platform
import re
from collections.abc import Sequence
from typing import Any

import ds2f
from ds2f.config import Config
from ds2f.runner.device import inspection, processor
from launch.doctor.terminal_report import anonymous
from launch.doctor.verdict import MISSING, Line, passed, summary


def cards(lines: Sequence[Line]) -> list[str]:
    """The names of the cards that open, without their free memory."""
    found = [line.found for line in lines if line.group == "cards" and line.name.startswith(("card ", "processor"))]
    return [re.sub(r", \d+ GB free$", "", name) for name in found]


def report(cfg: Config, lines: Sequence[Line]) -> dict[str, Any]:
    """Versions, the device, all lines and the summary, ready for JSON."""
    kind = inspection.likely_kind(cfg.device)
    versions = {
        line.name: line.found if line.verdict != MISSING else MISSING for line in lines if line.group == "versions"
    }
    opened = cards(lines)
    facts = {"ds2f": ds2f.__version__, **versions, "kind": kind, "processor": processor.name()}
    facts |= {"cards": f"{len(opened)} x {opened[0]}" if opened else "none", "system": platform.system()}
    model = cfg.model
    return {
        "device": anonymous(f"{kind}: {opened[0]}" if opened else kind),
        "facts": {name: anonymous(str(value)) for name, value in facts.items()},
        "model": f"{model.hidden_layers} x {model.hidden_size}",
        "lines": [
            {**line.to_dict(), "found": anonymous(line.found), "remedy": anonymous(line.remedy)} for line in lines
        ],
        "summary": anonymous(summary(lines)),
        "passed": passed(lines),
    }
