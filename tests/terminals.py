"""Programs at a terminal of their own: what its screen and the lines above it show at the end."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from commands import variables

_SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


def run(*arguments, folder, columns=80, lines=24, limit=240, **more):
    """Runs ``python ARGUMENTS`` at a terminal; returns its exit status and the bytes that it wrote there."""
    controlling, own = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = variables({"COLUMNS": None, "LINES": None, "TERM": "xterm-256color", **more})
    command = [sys.executable, *map(str, arguments)]
    program = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=own, stdout=own, stderr=own, start_new_session=True
    )
    os.close(own)
    written, end = b"", time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if select.select([controlling], [], [], 0.2)[0]:
                try:
                    written += os.read(controlling, 1 << 16)
                except OSError:  # the terminal has no program left
                    break
    finally:
        program.kill() if program.poll() is None and time.monotonic() >= end else None
        os.close(controlling)
    return program.wait(10), written.decode()


def shown(written, *, columns=80):
    """The lines that a terminal shows at the end, and those of them that it has wrapped itself.

    Only what rich writes is understood: colours, the cursor to the line's beginning or up, a line erased.
    """
    lines, wrapped, row, column = [""], set(), 0, 0
    for found in _SEQUENCE.finditer(written):
        piece, numbers, kind = found[0], found[1], found[2]
        if kind == "A":
            row = max(row - int(numbers or 1), 0)
        elif kind == "K":
            lines[row] = ""
        elif kind:
            assert kind in "mhl", f"an escape sequence that is not understood: {piece!r}"
        elif piece == "\r":
            column = 0
        else:
            if piece != "\n" and column == columns:
                wrapped.add(row)
            if piece == "\n" or column == columns:
                row, column = row + 1, 0
                lines += [""] * (row + 1 - len(lines))
            if piece != "\n":
                lines[row] = f"{lines[row]:{column}}"[:column] + piece + lines[row][column + 1 :]
                column += 1
    return [line.rstrip() for line in lines], [lines[row] for row in sorted(wrapped)]
