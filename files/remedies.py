"""Hints for an engine's last output before it exited. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only)."""

import re


def error_hint(code, said, hints, cards=True):
    """The hint for a failed container, with a leading space; "" where none matches.

    code: its exit code. said: its last lines. hints: (pattern, sentence, sentence without GPUs) from
    gpurack/engines/hints.py; the last match in the last matching line wins. cards: does the model have GPUs?"""
    found = ""
    for line in ["exit code {}".format(code)] + said.splitlines():
        for pattern, sentence, on_cpu in hints:
            if re.search(pattern, line, re.IGNORECASE):
                found = sentence if cards else on_cpu
    return found and " " + found
