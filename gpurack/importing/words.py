"""Read shell text as commands, by tree-sitter's grammar of bash: variables, arrays, loops, functions. Executes nothing.

Prompts, broken continuations, those of PowerShell and cmd, and placeholders such as `<model>` are repaired first.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from gpurack.importing.container import Finding

MISSING = "missing backslash at the end of the line; joined with the next line."
SPACE = "space after the backslash, which would end the command; joined with the next line."
NEVER_CLOSED, INVALID = "unclosed quote", "not valid shell"
MOST, STEPS, LONGEST, DEEPEST, TRIES, LONGEST_QUOTE = 64, 5000, 20_000, 40, 12, 50
"""The most words of a loop, statements, characters of a command's variables, nested calls or statements that are
followed, errors after which the rest is parsed as a whole again, and lines of a quote in a line that is not valid."""
DOCKER = re.compile(r"\b(docker|podman|nerdctl)\b")
PROMPT = re.compile(r"^\s*(?:\([\w.-]+\)\s*)?(?:\$|\[?[\w.-]+@[\w.-]+[: ][^\s$#]*[$#])\s+")
"""A prompt copied from a terminal: `$`, `root@gpu1:~#`, `(base) [me@gpu1 ~]$`."""
WINDOWS = re.compile(r"\s[`^]\s*$")
"""The continuation of PowerShell and of cmd."""
HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)(?P<word>\w+)\1")
"""The beginning of a here-document. Its end may be indented, as in a list of Markdown."""
PLACEHOLDER = re.compile(r"<[A-Za-z]([\w .-]*[\w.-])?>")
HIDDEN = str.maketrans("<> ", "\ue000\ue001\ue002")
"""Characters of placeholders, which must not redirect or end a word."""
SHOWN = {new: old for old, new in HIDDEN.items()}
CONDITIONS = ("if_statement", "while_statement", "case_statement", "c_style_for_statement")
WORDS = ("string", "raw_string", "ansi_c_string", "concatenation")
REDIRECTIONS = ("heredoc_redirect", "herestring_redirect")
EXPANSIONS = ("simple_expansion", "expansion", "command_substitution", "arithmetic_expansion", "process_substitution")
Value = tuple[Sequence[str], tuple[str, ...]]
"""(one word, or those of an array; the undefined names in them)"""
Piece = tuple[str, bool]
"""(a part of a word; does white space in it end the word?)"""
END, BEGUN = "\0", "\1"
"""Where a word ends, and what makes it a word even if it is empty."""


@dataclass(frozen=True)
class Command:
    """One simple command. where: `line 3`. undefined: the undefined variables and `$(…)` in its words."""

    where: str
    words: tuple[str, ...]
    undefined: tuple[str, ...] = ()


@dataclass
class Script:
    """The commands of a text. comments: (where, text) of comment lines. exported: variables that commands get.

    plain: is it one command and nothing else?
    """

    commands: list[Command] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    comments: list[tuple[str, str]] = field(default_factory=list)
    exported: dict[str, str] = field(default_factory=dict)
    plain: bool = False


def read(
    text: str,
    variables: Mapping[str, str] | None = None,
    unfinished: Callable[[Sequence[str]], bool] = lambda words: False,
) -> Script:
    """Parse a shell script, with variables substituted from its assignments and from `variables`.

    Loops over words and calls of the text's own functions are followed; nothing else is executed.
    unfinished: true for a command that the next line must continue, to detect missing backslashes.
    """
    reader = _Reader({name: ([value], ()) for name, value in (variables or {}).items()}, unfinished)
    lines = reader.repaired(text.splitlines())
    at = tries = 0
    while at < len(lines) and reader.left > 0:
        end = len(lines) if tries < TRIES else line_end(lines, at)
        wrong = reader.parse(lines, at, end)
        at = end if wrong == end else reader.parse_alone(lines, wrong)
        tries += wrong < end
    return reader.script


@cache
def parser() -> Parser:
    """The parser of bash."""
    return Parser(Language(tree_sitter_bash.language()))


def first_error(root: Node) -> int:
    """The row at which the statement with the first error begins."""
    node = root
    while not (node.is_error or node.is_missing):
        node = next(child for child in node.children if child.has_error or child.is_missing)
    row = node.start_point.row
    return min(child.start_point.row for child in root.children if child.end_point.row >= row)


def line_end(lines: Sequence[str], row: int) -> int:
    """The row after a line and its continuations."""
    return next((at for at in range(row, len(lines)) if not lines[at].endswith("\\")), len(lines) - 1) + 1


def opens_quote(text: str) -> bool:
    """True if a quote is open at the end."""
    try:
        shlex.split(text)
    except ValueError:
        return True
    return False


class _Reader:
    """Follows the statements of a script. functions: name → its body. inside: depth of conditions."""

    def __init__(self, known: dict[str, Value], unfinished: Callable[[Sequence[str]], bool]) -> None:
        self.script, self.known, self.unfinished = Script(), known, unfinished
        self.functions: dict[str, Node] = {}
        self.undefined: list[str] = []
        self.arguments: Sequence[str] = ()
        self.inside = self.depth = self.first_row = 0
        self.left, self.budget, self.last_row = STEPS, LONGEST, -1

    def repaired(self, lines: Sequence[str]) -> list[str]:
        """The lines without prompts, and with the shell's own continuations."""
        found: list[str] = []
        docker, until = False, 0
        last = {line.strip(): row for row, line in enumerate(lines)}
        for row, line in enumerate(lines):
            if row <= until and until:  # of a here-document
                found.append("")
                continue
            if (opened := HEREDOC.search(line)) and last.get(opened["word"], 0) > row:
                until = next(at for at in range(row + 1, len(lines)) if lines[at].strip() == opened["word"])
                line = HEREDOC.sub("", line)
            continued = bool(found) and found[-1].endswith("\\")
            line = line if continued else PROMPT.sub("", line)
            docker = bool(DOCKER.search(line)) or (docker and continued)
            if docker and WINDOWS.search(line):
                line = WINDOWS.sub(" \\\\", line)
            elif re.search(r"(?<!\\)\\[ \t]+$", line) and not line.lstrip().startswith("#"):
                self.script.findings.append(Finding("changed", f"line {row + 1}", SPACE))
                line = line.rstrip()
            line = re.sub(r"(?<!\\)((?:\\\\)*)\\$", r"\1 \\", line)
            line = re.sub(r"\$(\{?)env:", r"$\1", line)  # PowerShell's
            found.append(PLACEHOLDER.sub(lambda one: one[0].translate(HIDDEN), line))
        return found

    def parse(self, lines: Sequence[str], start: int, end: int) -> int:
        """Read the lines from start to end. Returns the row of the first statement that is not valid, or end."""
        root = parser().parse("\n".join(lines[start:end]).encode(errors="replace")).root_node
        wrong = start + first_error(root) if root.has_error else end
        kinds = [node.type for one in [root, *root.named_children] for node in one.named_children]
        self.script.plain = (start, wrong, kinds[:2]) == (0, len(lines), ["command", "command_name"])
        self.first_row = start
        self.run([node for node in root.children if start + node.end_point.row < wrong])
        return wrong

    def parse_alone(self, lines: Sequence[str], row: int) -> int:
        """Read one line with its continuations. Returns the row after it; the end if it opens a quote."""
        end = line_end(lines, row)
        if self.parse(lines, row, end) == end:
            return end
        where, text = f"line {row + 1}", "\n".join(lines[row:end])
        while opens_quote(text):
            if end == len(lines):
                self.script.findings.append(Finding("open", where, f"{NEVER_CLOSED}: {first_words(text)} …"))
                return end
            end = line_end(lines, end) if end < row + LONGEST_QUOTE else len(lines)
            text = "\n".join(lines[row:end])
        if DOCKER.search(text):
            self.script.findings.append(Finding("open", where, f"{INVALID}: {first_words(text)} …"))
        elif name := first_words(text):
            self.script.commands.append(Command(where, (name,)))
        return end

    def run(self, nodes: Sequence[Node], where: str = "") -> None:
        """Read statements in order. where: the place of the whole line, for parts of it."""
        self.depth += 1
        for node in nodes if self.depth < DEEPEST else ():
            if self.left <= 0:
                break
            self.left -= int(node.is_named)
            self.statement(node, where or self.place(node))
        self.depth -= 1

    def place(self, node: Node) -> str:
        return f"line {self.first_row + node.start_point.row + 1}"

    def statement(self, node: Node, where: str) -> None:
        """Read one statement."""
        self.undefined, self.budget = [], LONGEST
        if node.type == "comment":
            if self.last_row == self.first_row + node.start_point.row - 1:
                self.last_row += 1
            if not node.prev_sibling or node.prev_sibling.end_point.row < node.start_point.row:
                self.script.comments.append((self.place(node), shown(node)[1:].strip()))
        elif node.type == "function_definition":
            self.functions[shown(node.child_by_field_name("name"))] = node.child_by_field_name("body") or node
        elif node.type == "for_statement":
            self.loop(node, where)
        elif node.type in ("variable_assignment", "variable_assignments", "declaration_command"):
            assignments = [node] if node.type == "variable_assignment" else node.named_children
            for one in assignments:
                if one.type == "variable_assignment":
                    self.assign(one, where, node.children[0].type == "export")
        elif node.type == "command":
            self.command(node, where)
        elif node.type in CONDITIONS:
            for child in node.named_children:  # what a condition runs, runs
                condition = child == node.child_by_field_name("condition")
                self.inside += not condition
                self.run([child], where if condition else "")
                self.inside -= not condition
        elif node.type in ("list", "pipeline", "redirected_statement", "negated_command"):
            self.run(node.children, where)
        elif node.type not in ("test_command", "file_redirect", *REDIRECTIONS):
            self.run(node.children)

    def command(self, node: Node, where: str) -> None:
        """Read one simple command, or call a function of the text."""
        words: list[str] = []
        around = node.parent.children_by_field_name("redirect") if node.parent else []
        for child in [*node.named_children, *around]:
            if child.type == "file_redirect":  # has all words behind it
                words += self.words(child.children_by_field_name("destination")[1:])
            elif child.type not in ("variable_assignment", *REDIRECTIONS):
                words += self.words([child])
        if words and words[0] in self.functions:
            before, self.arguments = self.arguments, words
            self.run([self.functions[words[0]]])
            self.arguments = before
        elif words:
            first, last = (self.first_row + point.row for point in (node.start_point, node.end_point))
            if first == self.last_row + 1 and self.continues(words):
                before_it = self.script.commands.pop()
                self.script.findings.append(Finding("changed", f"line {first}", MISSING))
                where, words = before_it.where, [*before_it.words, *words]
                self.undefined = [*before_it.undefined, *self.undefined]
            self.script.commands.append(Command(where, tuple(words), tuple(dict.fromkeys(self.undefined))))
            self.last_row = last

    def continues(self, words: Sequence[str]) -> bool:
        """True if the words can only be the rest of the command before them."""
        before = self.script.commands[-1].words if self.script.commands else ()
        meant = words[0].startswith("-") or self.unfinished(before)
        return bool(meant and DOCKER.search(" ".join(before))) and not re.fullmatch(f"sudo|{DOCKER.pattern}", words[0])

    def assign(self, node: Node, where: str, exported: bool) -> None:
        """Read `NAME=value`, `NAME+=value`, `NAME=(…)`."""
        name, value = shown(node.child_by_field_name("name")), node.child_by_field_name("value")
        if self.inside:
            self.script.findings.append(Finding("open", where, f"sets {name} under a condition; ignored."))
            return
        before, missing = self.known.get(name, ([], ())) if node.children[1].type == "+=" else ([], ())
        if value is not None and value.type == "array":
            items = [*before, *self.words(value.named_children)]
            self.known[name] = (items, tuple(dict.fromkeys([*missing, *self.undefined])))
            return
        pieces = self.pieces(value) if value else ()
        text = "".join(before) + "".join(text for text, _ in pieces).replace(END, " ")
        undefined = dict.fromkeys([*missing, *self.undefined])
        self.known[name] = ([text[:LONGEST]], tuple(one for one in undefined if one in text))
        if exported:
            self.script.exported[name] = text

    def loop(self, node: Node, where: str) -> None:
        """Read a loop's body once for each word. Words that are not in the text stay open."""
        name, body = shown(node.child_by_field_name("variable")), node.child_by_field_name("body")
        items = self.words(node.children_by_field_name("value"))[:MOST]
        undefined = tuple(dict.fromkeys(self.undefined))
        if undefined and items:
            self.script.findings.append(Finding("open", where, f"repeats for {', '.join(undefined)}; read once."))
            items = [f"${name}"]
        for item in items:
            self.known[name] = ([item], undefined)
            self.run([body] if body else [])

    def words(self, nodes: Iterable[Node]) -> list[str]:
        """The words that the words of a command become."""
        pieces = (piece for node in nodes if node.type != "comment" for piece in [*self.pieces(node), (END, True)])
        joined = "".join(re.sub(r"\s+", END, text) if splits else BEGUN + text for text, splits in pieces)
        return [word.replace(BEGUN, "") for word in joined.split(END) if word]

    def pieces(self, node: Node, quoted: bool = False) -> Iterator[Piece]:
        """The parts of a word with their values. quoted: it is not split."""
        text = shown(node)
        if node.type == "raw_string":
            yield text if quoted else text[1:-1], False
        elif node.type == "ansi_c_string":
            yield re.sub(r"\\(.)", lambda one: {"n": "\n", "t": "\t"}.get(one[1], one[1]), text[2:-1]), False
        elif node.type in EXPANSIONS:
            yield from self.expanded(node, text, quoted)
        elif node.type == "string":
            if not re.search(r"\$[@*]|\[[@*]\]", text):
                yield "", False  # a word, even if it is empty
            yield from self.parts(node, node.start_byte + 1, node.end_byte - 1, True)
        else:
            yield from self.parts(node, node.start_byte, node.end_byte, quoted)

    def parts(self, node: Node, start: int, end: int, quoted: bool) -> Iterator[Piece]:
        """The parts of a stretch of a node, in bytes: words and expansions in it, and the text between them."""
        source, offset = node.text or b"", node.start_byte
        escaped = r"\\(\n|[$`\"\\])" if node.type == "string" else r"\\(.)"
        for child in [one for one in node.children if one.type in (*WORDS, *EXPANSIONS) and one.start_byte >= start]:
            yield from literal(source[start - offset : child.start_byte - offset], escaped)
            yield from self.pieces(child, quoted)
            start = child.end_byte
        yield from literal(source[start - offset : end - offset], escaped)

    def expanded(self, node: Node, text: str, quoted: bool) -> Iterator[Piece]:
        """The value of a variable or command. An unknown one stays in the text and is undefined."""
        name, sign, at = text.removeprefix("$"), "", 0
        if node.type == "expansion" and node.named_children:
            first = node.named_children[0]
            name, at = shown(first), first.end_byte
            following = first.next_sibling.type if first.next_sibling else ""
            if re.fullmatch(":?[-+?=]", following):
                sign, at = following[-1], at + len(following)
            elif following != "}" or first != node.children[1]:
                name = text  # ${NAME##*/}, ${#NAME} and the like
        elif text in ("$(pwd)", "`pwd`"):
            name, text = "PWD", "$PWD"
        elif re.fullmatch(r"\$[$?!#-]", text):
            yield text, False
            return
        every = re.fullmatch(r"(\w+)\[[@*]\]|[@*]", name)
        of_call = (
            self.arguments[int(name) :][:1] if name.isdigit() else self.arguments[1:] if every and not every[1] else ()
        )
        values, missing = (of_call, ()) if of_call else self.known.get(every[1] or "" if every else name, ((), ()))
        there = bool("".join(values))
        if (sign and sign in "-=" and not there) or (sign == "+" and there):
            self.depth += 1
            yield from self.parts(node, at, node.end_byte - 1, quoted) if self.depth < DEEPEST else ()
            self.depth -= 1
            return
        if sign == "+":
            return
        if not values and not (every and (self.arguments or every[1] in self.known)):
            self.undefined.append(f"${name}" if sign or re.fullmatch(r"\w+", name) else text)
            yield self.undefined[-1], False
            return
        self.undefined += missing
        for number, value in enumerate(values if every else values[:1]):
            if number:
                yield END, True
            yield value[: self.budget], not (quoted or every or re.search(r"\$\(|`", value))
            self.budget = max(self.budget - len(value), 0)


def literal(source: bytes, escaped: str) -> Iterator[Piece]:
    """A literal part of a word without its escapes."""
    text = source.decode(errors="replace").translate(SHOWN)
    if text:
        yield re.sub(escaped, lambda one: one[1].strip("\n"), text, flags=re.DOTALL), False


def shown(node: Node | None) -> str:
    """The text of a node as it was written."""
    return ((node.text if node else None) or b"").decode(errors="replace").translate(SHOWN)


def first_words(part: str) -> str:
    """The first words of a command that cannot be parsed. The rest may contain secrets, so it is never shown.

    >>> first_words("docker run -e KEY='x"), first_words("KEY='x")
    ('docker run', 'KEY')
    """
    found = re.match(r"\s*((?:sudo\s+)?(?:docker|podman|nerdctl)\s+[a-z]+|[\w./-]*)", part)
    return found[1] if found else ""
