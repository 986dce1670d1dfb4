"""A process of checks with other checks, some of which fail, crash or hang; it imports no torch."""

import signal
import sys
import time
import types

from launch.doctor import check_process
from launch.doctor.check_session import Check
from launch.doctor.verdict import OK, Line


def good(_):
    return [Line("stand-in", "good", OK, "fine")]


def bad(_):
    raise RuntimeError("first line\nsecond line")


def crash(_):
    signal.raise_signal(signal.SIGSEGV)


def hang(_):
    time.sleep(600)


def leave(_):
    print("CANN says goodbye", file=sys.stderr)
    sys.exit(3)


CHECKS = {"good": good, "bad": bad, "crash": crash, "hang": hang, "leave": leave, "gate": hang}


def main(names):
    """Runs checks by name, as ``launch.doctor.check_process`` runs its own."""
    made = [
        Check(
            "stand-in", f"{index} {name}", CHECKS[name], seconds=1.0, remedy="a flag", device=False, gate=name == "gate"
        )
        for index, name in enumerate(names)
    ]
    sys.modules["launch.doctor.all_checks"] = types.SimpleNamespace(checks=lambda: made)
    check_process.main()
