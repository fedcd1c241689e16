"""Parse shell text into commands: continuations (also broken ones), comments, quotes, variables. Executes nothing."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpurack.importing import compose_yaml
from gpurack.importing.container import Finding

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
OPENING, CLOSING = ("if", "for", "while", "until", "case"), ("fi", "done", "esac")
MISSING = "missing backslash at the end of the line; joined with the next line."
SPACE = "space after the backslash, which would end the command; joined with the next line."
NEVER_CLOSED = "unclosed quote"
LOOPS = ("for", "while", "until")
MOST, STEPS, LONGEST, DEEPEST = 64, 5000, 20_000, 20
"""The most words of a loop, commands, characters of a command, and nested defaults of a variable that are followed."""
VARIABLE = re.compile(rf"\$(\{{)?({NAME}|[0-9@*])")
LOOP = re.compile(rf"\s*for\s+({NAME})\s+in\s+(.*)", re.DOTALL)
FUNCTION = re.compile(r"\s*(?:function\s+)?([\w-]+)\s*\(\)\s*\{(.*)", re.DOTALL)
ARRAY = re.compile(rf"\s*(?:(?:declare|local|readonly|export)\s+(?:-\w+\s+)?)?({NAME})(\+?)=\((.*)\)\s*", re.DOTALL)
ARRAY_OPEN = re.compile(rf"\s*(?:(?:declare|local|readonly|export)\s+(?:-\w+\s+)?)?{NAME}\+?=\([^)]*$")
Variables = dict[str, tuple[str, tuple[str, ...]]]
"""Name → (value, undefined names in it); `NAME[]` for the words of an array."""
Part = tuple[str, str]
"""(where, a simple command)"""
WINDOWS = re.compile(r"\s[`^]\s*$")
"""The continuation of PowerShell and of cmd."""
SPOILT = re.compile(r"\\[ \t]+$")
QUOTED = r"""\\.|'[^']*'?|"(?:\\.|[^"\\])*"?"""
CLOSED = re.compile(r"""\\.?|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
SEPARATOR = re.compile(rf"{QUOTED}|\$\(|`|>&|&>|(?P<end>[;|&]+)", re.DOTALL)
QUOTED_OR_REDIRECTION = re.compile(
    rf"{QUOTED}|(?P<gap><[A-Za-z][\w .-]*>)"
    r"|(?P<redirection>(?:(?<!\S)[0-9])?&?(?:>>?\|?|<<?<?-?)(?:&[0-9-]|\s*[^\s<>()]+))",
    re.DOTALL,
)
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

    Loops over words and calls of the text's own functions are followed; nothing else is executed.
    unfinished: true for a line that the next one must continue, to detect missing backslashes.
    """
    script = Script()
    known: Variables = {name: (value, ()) for name, value in (variables or {}).items()}
    parts = [
        (f"line {number}", part)
        for number, line in logical_lines(text, script, unfinished or (lambda _: False))
        for part in simple_commands(line)
    ]
    _Reader(script, known).run(parts)
    return script


class _Reader:
    """Follows the simple commands of a script. functions: name → its commands. inside: depth of conditions."""

    def __init__(self, script: Script, known: Variables) -> None:
        self.script, self.known = script, known
        self.functions: dict[str, list[Part]] = {}
        self.inside = self.calls = 0
        self.left = STEPS

    def run(self, parts: Sequence[Part]) -> None:
        """Read commands in order."""
        at = 0
        while at < len(parts) and self.left > 0:
            where, part = parts[at]
            at += 1
            self.left -= 1
            first = part.split(maxsplit=1)
            if found := FUNCTION.match(part):
                rest = [(where, found[2])] if found[2].strip() else []
                body, at = block(parts, at, ("{",), ("}",))
                self.functions[found[1]] = [*rest, *body]
            elif found := LOOP.match(part):
                body, at = block(parts, at, LOOPS, ("done",))
                self.loop(where, found[1], found[2], body)
            elif first[0] in ("then", "else", "do"):
                self.run([(where, first[1])] if len(first) > 1 else [])
            elif first[0] in (*OPENING, *CLOSING):
                self.inside += (first[0] in OPENING) - (first[0] in CLOSING)
                if first[0] in ("while", "until", "if") and len(first) > 1 and not re.match(r"\[|!?\s*\[", first[1]):
                    self.command(where, first[1])
            elif first[0] not in ("{", "}", "elif"):
                self.command(where, part)

    def loop(self, where: str, name: str, text: str, body: Sequence[Part]) -> None:
        """Read a loop's body once for each word. Words that are not in the text stay open."""
        expanded, undefined = expand(with_arrays(text, self.known), self.known)
        items = self.split(where, expanded, "for …")[:MOST]
        if undefined and items:
            self.script.findings.append(Finding("open", where, f"repeats for {', '.join(undefined)}; read once."))
            items = [f"${name}"]
        for item in items:
            self.known[name] = (item, undefined)
            self.run(body)

    def command(self, where: str, part: str) -> None:
        """Read one simple command."""
        if found := ARRAY.match(part):
            self.array(where, found[1], bool(found[2]), found[3])
            return
        expanded, undefined = expand(without_redirections(with_arrays(part, self.known)), self.known)
        for name in re.findall(rf"\$\{{({NAME})\[", part):
            undefined += self.known.get(f"{name}[]", ("", ()))[1]
        words = self.split(where, expanded, f"{first_words(part)} …")
        if self.inside and words and re.match(rf"{NAME}\+?=", words[0]):
            name = words[0].partition("=")[0]
            self.script.findings.append(Finding("open", where, f"sets {name} under a condition; ignored."))
            return
        exports = words[:1] == ["export"]
        self.script.exported |= {name: value for name, equals, value in map(halves, words[1:]) if equals and exports}
        words = assign(words, undefined, self.known)
        if words and words[0] in self.functions and self.calls < 9:
            self.call(words)
        elif words:
            self.script.commands.append(Command(where, tuple(words), undefined))

    def split(self, where: str, text: str, shown: str) -> list[str]:
        """The words of a text, none with a finding if a quote stays open. shown: what names it in messages."""
        try:
            return shlex.split(text[:LONGEST])
        except ValueError:
            self.script.findings.append(Finding("open", where, f"{NEVER_CLOSED}: {shown}"))
            return []

    def array(self, where: str, name: str, more: bool, text: str) -> None:
        """Read `NAME=(…)` and `NAME+=(…)`."""
        expanded, undefined = expand(with_arrays(text, self.known), self.known)
        items = self.split(where, expanded, name)
        if text.strip() and not items:
            return
        before, missing = self.known.get(f"{name}[]", ("", ())) if more else ("", ())
        self.known[f"{name}[]"] = (f"{before} {shlex.join(items)}".strip(), (*missing, *undefined))

    def call(self, words: Sequence[str]) -> None:
        """Read a function's body with its arguments as positional parameters."""
        before = dict(self.known)
        given = {str(number): (word, ()) for number, word in enumerate(words[1:], start=1)}
        self.known |= {**given, "@[]": (shlex.join(words[1:]), ())}
        self.calls += 1
        self.run(self.functions[words[0]])
        self.calls -= 1
        for name in ("@[]", *given):
            self.known.pop(name, None)
            if name in before:
                self.known[name] = before[name]


def block(parts: Sequence[Part], at: int, opening: Sequence[str], closing: Sequence[str]) -> tuple[list[Part], int]:
    """(the commands up to the end of a block that began before at, the position after it)"""
    depth, body = 1, []
    while at < len(parts):
        first = parts[at][1].split(maxsplit=1)[0]
        depth += (first in opening or ("{" in opening and bool(FUNCTION.match(parts[at][1])))) - (first in closing)
        at += 1
        if depth == 0:
            break
        body.append(parts[at - 1])
    return body, at


def with_arrays(text: str, known: Variables) -> str:
    """The text with `"${NAME[@]}"` and `"$@"` as their words, if they are known."""

    def words_of(found: re.Match[str]) -> str:
        name = f"{found[1] or '@'}[]"
        return known[name][0] if name in known else found[0]

    return re.sub(rf"""\"?(?:\$\{{({NAME})\[[@*]\]\}}|\$@|\$\{{@\}})\"?""", words_of, text)


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
        start, buffer, quote = position, "", ""
        while position < len(lines):
            raw = PROMPT.sub("", lines[position]) if not buffer else lines[position]
            code, comment = split_comment(quote, raw)
            if comment and not buffer.strip() and not code.strip():
                script.comments.append((f"line {position + 1}", comment))
            position += 1
            if quote := open_quote(code, quote):
                buffer += code + "\n"
                continue
            if ARRAY_OPEN.match(buffer + code):
                buffer += code + " "
                continue
            if WINDOWS.search(code) and re.search(r"\b(docker|podman|nerdctl)\b", buffer + code):
                buffer += WINDOWS.sub(" ", code)
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


def split_comment(quote: str, line: str) -> tuple[str, str]:
    """(code, comment) of a line. quote: the one that is open before it."""
    for found in re.finditer(rf"(?s:{QUOTED})|(?P<comment>(?<!\S)#)", quote + line):
        if found["comment"]:
            start = found.start() - len(quote)
            return line[:start], line[start + 1 :].strip()
    return line, ""


def open_quote(text: str, quote: str = "") -> str:
    """The quote that is open at the end, "" for none. quote: the one that is open before the text.

    >>> open_quote("a 'b"), open_quote("b' c", "'")
    ("'", '')
    """
    found = re.search("['\"]", CLOSED.sub("", quote + text))
    return found[0] if found else ""


def simple_commands(line: str) -> list[str]:
    """A line split at ; && || | & outside quotes and $(…).

    >>> simple_commands("a=1; docker run 'x;y' && echo")
    ['a=1', " docker run 'x;y' ", ' echo']
    """
    parts, start, position = [], 0, 0
    while found := SEPARATOR.search(line, position):
        position = closing(line, found.start()) if found[0] in ("$(", "`") else found.end()
        if found["end"]:
            parts.append(line[start : found.start()])
            start = position
    return [part for part in [*parts, line[start:]] if part.strip()]


def expand(text: str, known: Mapping[str, tuple[str, tuple[str, ...]]], depth: int = 0) -> tuple[str, tuple[str, ...]]:
    """(text with variables substituted as the shell does, the undefined ones, which stay in the text)"""
    out, quote, position = "", "", 0
    undefined: list[str] = []
    while position < len(text):
        char = text[position]
        if char == "\\" and quote != "'":
            out += text[position : position + 2]
            position += 2
            continue
        found = VARIABLE.match(text, position)
        if quote != "'" and found:
            end = (compose_yaml.closing(text, position) or len(text)) if found[1] else found.end()
            name, rest = found[2], text[found.end() : end - 1] if found[1] else ""
            sign = re.match(r":?([-?+=])(.*)", rest, re.DOTALL)
            default = sign[2] if sign else ""
            default = expand(default, known, depth + 1)[0] if default and depth < DEEPEST else default
            if name in known and rest and not sign:  # ${NAME##*/} and the like
                value = text[position:end]
                undefined.append(value)
            elif sign and sign[1] == "+":
                value = default if known.get(name, ("",))[0] else ""
            elif name in known and (known[name][0] or not sign or sign[1] == "?"):
                value, missing = known[name]
                undefined += missing
            elif sign and sign[1] in "-=":
                value = default.strip("\"'")
            else:
                value = f"${name}" if not rest or sign else text[position:end]
                undefined.append(value)
            value = value[:LONGEST]
            if not quote and re.search(r"\$\(|`", value):
                out += shlex.quote(value)
            else:
                out += re.sub(r'([\\"])' if quote else r"([\\\"'])", r"\\\1", value)
            position = end
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


def assign(words: list[str], undefined: tuple[str, ...], known: Variables) -> list[str]:
    """Add assignments to `known` if they are the whole command. Returns the words without leading assignments."""
    rest = words[1:] if words[:1] in (["export"], ["declare"], ["set"], ["local"], ["readonly"]) else words
    leading = 0
    while leading < len(rest) and re.match(rf"{NAME}\+?=", rest[leading]):
        leading += 1
    if leading == len(rest):
        for word in rest:
            name, _, value = word.partition("=")
            if name.endswith("+"):
                name = name[:-1]
                value = known.get(name, ("", ()))[0] + value
            known[name] = (value, tuple(item for item in undefined if item in value))
        return []
    return rest[leading:] if rest is words else words


def without_redirections(text: str) -> str:
    """A command without redirections such as `> file` and `2>&1`. Placeholders such as `<model>` stay.

    >>> without_redirections("run '<s>' 2>&1 >> log -x <model> &> y")
    "run '<s>'   -x '<model>'"
    """

    def kept(found: re.Match[str]) -> str:
        return "" if found["redirection"] else shlex.quote(found["gap"]) if found["gap"] else found[0]

    return QUOTED_OR_REDIRECTION.sub(kept, text).strip()
