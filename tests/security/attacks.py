"""Texts that an attacker on a host may put into a log, a label, a name or an answer, to deceive its reader."""

import re

CLEAR, TITLE, CLIPBOARD = "\x1b[2J\x1b[H", "\x1b]0;pwned\x07", "\x1b]52;c;cm0gLXJmIH4=\x1b\\"
LINK, ANSWER = "\x1b]8;;http://evil/\x1b\\gpu1\x1b]8;;\x1b\\", "\x1b[6n\x1b[c\x05"
C1_CLEAR, C1_TITLE = "\x9b2J", "\x9d0;pwned\x9c"
OVERRIDE, ISOLATE, MARKS = "\u202etxt.exe", "\u2066 admin \u2069", "\u200e\u200f\u061c"
ZERO_WIDTH, TAGS = "al\u200bpha\ufeff\u00ad", "\U000e0061\U000e007f"
LINES = "a\u2028b\u2029c\x85d"
OVERWRITE = "all is well\rerror\b\b\b\b\x7f"
HALF = "\udc80\ud800"
IN_PIECES = "\x1b\x1b[0m[2J\x9b\x1b[31m"
MARKUP, TAG, EMOJI, LAST = r"[INST] a \[/INST] b", "[red]b[/red][/]", ":bomb: :+1:", "a backslash\\"
ADDRESS = "[fe80::1]:8000"
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)> \" ' &amp;"

HIDDEN = [CLEAR, TITLE, CLIPBOARD, LINK, ANSWER, C1_CLEAR, C1_TITLE, OVERRIDE, ISOLATE, MARKS, ZERO_WIDTH, TAGS]
HIDDEN += [LINES, OVERWRITE, HALF, IN_PIECES]
VISIBLE = [MARKUP, TAG, EMOJI, LAST, ADDRESS]
"""Texts that must be shown unchanged."""
EVERYTHING = " ".join([*HIDDEN, *VISIBLE, HTML])

HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Written here again, so that the tests do not rely on gpurack's own filter."""


def harmless(text: str, colours: bool = False) -> str:
    """Return the text; fails if it contains anything harmful. colours: gpurack's own colours are allowed."""
    found = HARMFUL.search(re.sub(r"\x1b\[[0-9;]*m", "", text) if colours else text)
    assert found is None, f"{found[0]!r} in {text[max(0, found.start() - 40) : found.end() + 40]!r}"
    return text
