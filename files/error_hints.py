"""Hints for an engine's last output before it exited. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only)."""

import re

LONGEST = 1000  # characters of a line that patterns are tried on: they may need its square of steps


def error_hint(code, said, hints, on_gpus=True):
    """The hint for a failed container, with a leading space; "" where none matches.

    code: its exit code, None while it runs. said: its last lines. hints: (pattern, sentence, sentence without GPUs,
    weak) from gpurack/engines/hints.py; the last match in the last matching line wins, a weak one only where no other
    matches. on_gpus: does the model have GPUs?"""
    found = faint = ""
    for line in ["exit code {}".format(code)] + said.splitlines():
        line = line[:LONGEST]
        for pattern, sentence, on_cpu, weak in hints:
            if re.search(pattern, line, re.IGNORECASE):
                text = sentence if on_gpus else on_cpu
                found, faint = (found, text) if weak else (text, faint)
    found = found or faint
    return found and " " + found
