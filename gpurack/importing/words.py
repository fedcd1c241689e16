"""Parse shell text into commands: continuations (also broken ones), comments, quotes, variables. Executes nothing."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from gpurack.importing.container import Finding

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
OPENING, CLOSING = ("if", "for", "while", "until", "case"), ("fi", "done", "esac")
MISSING = "missing backslash at the end of the line; joined with the next line."
SPACE = "space after the backslash, which would end the command; joined with the next line."
NEVER_CLOSED = "unclosed quote"
SPOILT = re.compile(r"\\[ \t]+$")
PROMPT = re.compile(r"^\s*(?:\([\w.-]+\)\s*)?(?:\$|\[?[\w.-]+@[\w.-]+[: ][^\s$#]*[$#])\s+")
"""A prompt copied from a terminal: `$`, `root@gpu1:~#`, `(base) [me@gpu1 ~]$`."""


@dataclass(frozen=True)
class Command:
    """One simple command. where: `line 3`. undefined: the undefined variables and `$(…)` in its words."""

    where: str
    words: tuple[str, ...]
    undefined: tuple[str, ...] = ()


@dataclass
class Script:
    """The commands of a text. comments: (where, text) of comment lines. exported: variables that commands get."""

    commands: list[Command] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    comments: list[tuple[str, str]] = field(default_factory=list)
    exported: dict[str, str] = field(default_factory=dict)


def read(
    text: str, variables: Mapping[str, str] | None = None, unfinished: Callable[[str], bool] | None = None
) -> Script:
    """Parse a shell script, with variables substituted from its assignments and from `variables`.

    unfinished: true for a line that the next one must continue, to detect missing backslashes.
    """
    script = Script()
    known: dict[str, tuple[str, tuple[str, ...]]] = {name: (value, ()) for name, value in (variables or {}).items()}
    inside = 0
    for number, line in logical_lines(text, script, unfinished or (lambda _: False)):
        where = f"line {number}"
        for part in simple_commands(line):
            first = part.split(maxsplit=1)
            inside += (first[0] in OPENING) - (first[0] in CLOSING)
            if first[0] in ("then", "else", "do"):
                part = first[1] if len(first) > 1 else ""
            elif first[0] in (*OPENING, *CLOSING):
                continue
            expanded, undefined = expand(without_redirections(part), known)
            try:
                words = shlex.split(expanded)
            except ValueError:
                script.findings.append(Finding("open", where, f"{NEVER_CLOSED}: {first_words(part)} …"))
                continue
            if inside and words and re.match(rf"{NAME}=", words[0]):
                name = words[0].partition("=")[0]
                script.findings.append(Finding("open", where, f"sets {name} under a condition; ignored."))
                continue
            exports = words[:1] == ["export"]
            script.exported |= {name: value for name, equals, value in map(halves, words[1:]) if equals and exports}
            words = assign(words, undefined, known)
            if words:
                script.commands.append(Command(where, tuple(words), undefined))
    return script


def halves(word: str) -> tuple[str, str, str]:
    """The two sides of an assignment."""
    return word.partition("=")


def first_words(part: str) -> str:
    """The first words of a command that cannot be parsed. The rest may contain secrets, so it is never shown.

    >>> first_words("docker run -e KEY='x"), first_words("KEY='x")
    ('docker run', 'KEY')
    """
    found = re.match(r"\s*((?:sudo\s+)?(?:docker|podman|nerdctl)\s+[a-z]+|[\w./-]*)", part)
    return found[1] if found else ""


def logical_lines(text: str, script: Script, unfinished: Callable[[str], bool]) -> Iterator[tuple[int, str]]:
    """(number, line) with continuations joined. Broken continuations are also joined and become findings."""
    lines = text.expandtabs(4).splitlines()
    position = 0
    while position < len(lines):
        start, buffer = position, ""
        while position < len(lines):
            raw = PROMPT.sub("", lines[position]) if not buffer else lines[position]
            code, comment = split_comment(buffer, raw)
            if comment and not buffer.strip() and not code.strip():
                script.comments.append((f"line {position + 1}", comment))
            position += 1
            if open_quote(buffer + code):
                buffer += code + "\n"
                continue
            if re.search(r"(?<!\\)(\\\\)*\\$", code):
                buffer += code[:-1] + " "
                continue
            if SPOILT.search(code) and not comment:
                script.findings.append(Finding("changed", f"line {position}", SPACE))
                buffer += SPOILT.sub(" ", code)
                continue
            buffer += code
            following = lines[position] if position < len(lines) else ""
            meant = following.lstrip().startswith("-") or (following.strip() and unfinished(buffer))
            if not (meant and joins(buffer, following)):
                break
            script.findings.append(Finding("changed", f"line {position}", MISSING))
            buffer += " "
        heredoc = re.search(r"<<-?\s*(['\"]?)(\w+)\1", buffer)
        if heredoc:
            while position < len(lines) and lines[position].strip() != heredoc[2]:
                position += 1
            position += 1
        if buffer.strip():
            yield start + 1, buffer


def joins(buffer: str, following: str) -> bool:
    """True if the next line can continue this one: only a docker command, and not by another command."""
    return bool(re.search(r"\b(docker|podman|nerdctl)\b", buffer)) and not re.match(
        r"\s*(#|sudo\b|(nvidia-)?docker\b|podman\b|nerdctl\b)", following
    )


def split_comment(before: str, line: str) -> tuple[str, str]:
    """(code, comment) of a line, after the text `before` it."""
    quote = open_quote(before)
    position = 0
    while position < len(line):
        char = line[position]
        if char == "\\" and quote != "'":
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (position == 0 or line[position - 1].isspace()):
            return line[:position], line[position + 1 :].strip()
        position += 1
    return line, ""


def open_quote(text: str) -> str:
    """The quote that is open at the end, "" for none."""
    quote, escaped = "", False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
    return quote


def simple_commands(line: str) -> list[str]:
    """A line split at ; && || | & outside quotes and $(…).

    >>> simple_commands("a=1; docker run 'x;y' && echo")
    ['a=1', " docker run 'x;y' ", ' echo']
    """
    parts, current, quote, depth, position = [], "", "", 0, 0
    while position < len(line):
        char = line[position]
        if char == "\\" and quote != "'" and position + 1 < len(line):
            current += line[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"`":
            quote = char
        elif line.startswith("$(", position):
            depth += 1
        elif char == ")" and depth:
            depth -= 1
        redirection = char == "&" and (current.endswith(">") or line.startswith("&>", position))
        if not quote and not depth and char in ";|&" and not redirection:
            parts.append(current)
            current = ""
            while position < len(line) and line[position] in ";|&":
                position += 1
            continue
        current += char
        position += 1
    return [part for part in [*parts, current] if part.strip()]


def expand(text: str, known: Mapping[str, tuple[str, tuple[str, ...]]]) -> tuple[str, tuple[str, ...]]:
    """(text with variables substituted as the shell does, the undefined ones, which stay in the text)"""
    out, quote, position = "", "", 0
    undefined: list[str] = []
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'":
            out += text[position : position + 2]
            position += 2
            continue
        found = re.match(rf"\$(?:({NAME})|\{{({NAME})(?::?([-?+])([^}}]*))?\}})", text[position:])
        if quote != "'" and found:
            name = found[1] or found[2]
            if name in known and (known[name][0] or found[3] != "-"):
                value, missing = known[name]
                undefined += missing
            elif found[3] == "-":
                value = found[4]
            else:
                value = f"${name}"
                undefined.append(f"${name}")
            if not quote and re.search(r"\$\(|`", value):
                out += shlex.quote(value)
            else:
                out += re.sub(r'([\\"])' if quote else r"([\\\"'])", r"\\\1", value)
            position += found.end()
            continue
        if quote != "'" and (char == "`" or text.startswith("$(", position)):
            end = closing(text, position)
            command = text[position:end]
            value = "$PWD" if command in ("$(pwd)", "`pwd`") else command
            if value == "$PWD" and "PWD" in known:
                value = known["PWD"][0]
            else:
                undefined.append(value)
            out += re.sub(r'([\\"])', r"\\\1", value) if quote else shlex.quote(value)
            position = end
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        out += char
        position += 1
    return out, tuple(dict.fromkeys(undefined))


def closing(text: str, start: int) -> int:
    """The position after a `$(…)` or backquoted command that starts at `start`."""
    if text[start] == "`":
        end = text.find("`", start + 1)
        return end + 1 if end > 0 else len(text)
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == "(") - (text[position] == ")")
        if depth == 0 and position > start + 1:
            return position + 1
    return len(text)


def assign(words: list[str], undefined: tuple[str, ...], known: dict[str, tuple[str, tuple[str, ...]]]) -> list[str]:
    """Add assignments to `known` if they are the whole command. Returns the words without leading assignments."""
    rest = words[1:] if words[:1] in (["export"], ["declare"], ["set"]) else words
    leading = 0
    while leading < len(rest) and re.match(rf"{NAME}=", rest[leading]):
        leading += 1
    if leading == len(rest):
        for word in rest:
            name, _, value = word.partition("=")
            known[name] = (value, tuple(item for item in undefined if item in value))
        return []
    return rest[leading:] if rest is words else words


def without_redirections(text: str) -> str:
    """A command without redirections such as `> file` and `2>&1`. Placeholders such as `<model>` stay.

    >>> without_redirections("run '<s>' 2>&1 >> log -x <model> &> y")
    "run '<s>'   -x '<model>'"
    """
    out, position = "", 0
    while position < len(text):
        quote = open_quote(out)
        if quote or text[position] == "\\":
            out += text[position : position + (1 if quote else 2)]
            position += 1 if quote else 2
            continue
        gap = re.match(r"<[A-Za-z][\w .-]*>", text[position:])
        redirection = re.match(r"(?:(?<!\S)[0-9])?&?(?:>>?\|?|<<?<?-?)(?:&[0-9-]|\s*[^\s<>()]+)", text[position:])
        at_start = not out or out[-1].isspace()
        if gap:
            out += shlex.quote(gap[0])
            position += gap.end()
        elif redirection and (at_start or text[position] in "<>&"):
            position += redirection.end()
        else:
            out += text[position]
            position += 1
    return out.strip()
