"""What helps against what an engine said last before it ended. A part of models.py, on the host's own python3 (3.6 or
newer, standard library only)."""

import re


def remedy(code, said, hints, cards=True):
    """A sentence, with a space before it; "" where nothing is known. code: the container's exit code. said: its last
    lines; the last of them that is known counts. hints: pattern, sentence and the sentence without cards, of which the
    last that matches a line counts (made by gpurack/engines/hints.py). cards: has it any?"""
    found = ""
    for line in ["exit code {}".format(code)] + said.splitlines():
        for pattern, sentence, on_cpu in hints:
            if re.search(pattern, line, re.IGNORECASE):
                found = sentence if cards else on_cpu
    return found and " " + found
