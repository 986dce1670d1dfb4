"""The process in which the checks run: it may crash or hang, and the process that has started it goes on.

It writes JSON lines to a pipe: before a check, ``{"begin": name, ...}``; after it, ``{"lines": [...]}``.
"""

import json
import os
import sys
from typing import Any

from ds2f import config
from ds2f.processes import die_with_parent
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import MISSING, WRONG, Line, cause


def main() -> None:
    """Runs the checks of the settings, which are the first argument; those of ``skip`` are left out."""
    from launch.doctor.all_checks import checks  # imports torch

    settings = json.loads(sys.argv[1])
    die_with_parent(settings["parent"])
    session = Session(config.from_dict(settings["config"]))
    with os.fdopen(settings["pipe"], "w", encoding="utf-8") as pipe:
        for check in checks():
            if key(check) not in settings["skip"]:
                _say(pipe, begin=key(check), group=check.group, name=check.name, seconds=check.seconds,
                     remedy=check.remedy, needed=check.needed, gate=check.gate)  # fmt: skip
                _say(pipe, lines=[line.to_dict() for line in _run(check, session)])


def key(check: Check) -> str:
    """The name of a check among all checks."""
    return f"{check.group}: {check.name}"


def _run(check: Check, session: Session) -> list[Line]:
    if check.device and session.problem:
        return []  # the check of the cards says why
    try:
        return list(check.run(session))
    except NotImplementedError as error:
        return [_failed(check, MISSING, error)]
    except Exception as error:  # noqa: BLE001  # a check that fails is a verdict
        return [_failed(check, WRONG, error)]


def _failed(check: Check, verdict: str, error: Exception) -> Line:
    return Line(check.group, check.name, verdict, f"fails: {cause(error)}", check.remedy, check.needed)


def _say(pipe: Any, **message: Any) -> None:
    pipe.write(json.dumps(message, allow_nan=False) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
