"""Runs a program on a terminal of its own, as a person would: waits for texts or seconds, and types answers.

    python3 terminal.py '{"args": ["vstar", "watch", "trn_…"], "steps": [["expect", "cancel"], ["send", "y\\n"]]}'

Prints what the terminal has shown and ends with the program's exit status. It is 124 if a text does not come.
"""

import json
import os
import pty
import select
import sys
import time

PATIENCE = 60


def main():
    asked = json.loads(sys.argv[1])
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(asked["args"][0], asked["args"], {**os.environ, **asked.get("env", {})})
    shown = b""
    read_until = 0

    def read():
        """Reads what there is; false once the program has closed the terminal."""
        nonlocal shown
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if not ready:
            return True
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux says so when the last program has closed it
            return False
        shown += piece
        return bool(piece)

    for kind, text in asked.get("steps", []):
        if kind == "send":
            os.write(terminal, text.encode())
            continue
        if kind == "pause":
            until = time.monotonic() + text
            while time.monotonic() < until and read():
                pass
            continue
        deadline = time.monotonic() + PATIENCE
        while (found := shown.find(text.encode(), read_until)) < 0:
            if time.monotonic() > deadline or not read():
                os.kill(child, 9)
                sys.stdout.buffer.write(shown)
                sys.exit(124)
        read_until = found + len(text.encode())
    while read():
        pass
    _, status = os.waitpid(child, 0)
    sys.stdout.buffer.write(shown)
    sys.stdout.flush()
    sys.exit(os.waitstatus_to_exitcode(status) % 256)


main()
