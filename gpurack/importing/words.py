"""Read shell text as commands, by tree-sitter's grammar of bash: variables, arrays, loops, functions. Executes nothing.

Prompts, broken continuations, those of PowerShell and cmd, and placeholders such as `<model>` are repaired first.
"""

import operator
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
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
STARTS = re.compile(rf"{DOCKER.pattern}\s+(container\s+)?(run|create)\b")
PROMPT = re.compile(r"^\s*(?:\([\w.-]+\)\s*)?(?:\$|\[?[\w.-]+@[\w.-]+[: ][^\s$#]*[$#])\s+")
"""A prompt copied from a terminal: `$`, `root@gpu1:~#`, `(base) [me@gpu1 ~]$`."""
WINDOWS = re.compile(r"\s[`^]\s*$")
"""The continuation of PowerShell and of cmd."""
WINDOWS_PATH = re.compile(r"(?<=[\s=])([A-Za-z]:|\$\{?\w+\}?)\\(?=[\w.])[^\s'\"]*")
"""A path outside of quotes, whose backslashes are no escapes."""
SPELLINGS = tuple((re.compile(pattern), new) for pattern, new in (
    (r"\$(\{?)env:", r"$\1"),  # PowerShell: $env:NAME
    (r"^\s*\$(\w+)\s*=\s*(?=\S)", r"\1="),  # PowerShell: $NAME = value
    (r"(?i)%cd%|(?<=[\s\"'=])\(pwd\)", "$PWD"),  # cmd, fish
    (r"%([A-Z_]{3,})%", r"${\1}"),  # cmd: %NAME%
    (r"^\s*set\s+\"?(\w+)=([^\"']*?)\"?\s*$", r"\1='\2'"),  # cmd: set NAME=value
    (r"^\s*set(?:\s+-\w+)*\s+(\w+)\s+([^\s\"']+|\"[^\"]*\"|'[^']*')\s*$", r"\1=\2"),  # fish: set -x NAME value
    (r"^Environment=\"?(\w+)=([^\"']*?)\"?\s*$", r"\1='\2'"),  # systemd
    (r"^Exec\w+=[-@:+!|]*", ""),  # systemd
    (r"^\t@-?(?=\w)", ""),  # make: @command
    (r"\$\(([A-Z_]+)\)", r"${\1}"),  # make: $(NAME)
    (r"\$\$(?=[A-Za-z_{(])", "$"),  # make: $$NAME of the shell
    (r"^(\w+)(?:\s+=|\s*[:?]=)\s*(\S+)\s*$", r"\1=\2"),  # make: NAME := value
))  # fmt: skip
"""What other shells, make and systemd write differently."""
HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)(?P<word>\w+)\1")
"""The beginning of a here-document. Its end may be indented, as in a list of Markdown."""
PLACEHOLDER = re.compile(r"<[A-Za-z]([\w .-]*[\w.-])?>")
HIDDEN = str.maketrans("<> ", "\ue000\ue001\ue002")
"""Characters of placeholders, which must not redirect or end a word."""
SHOWN = {new: old for old, new in HIDDEN.items()}
RANGE = re.compile(r"\{(-?\d{1,9})\.\.(-?\d{1,9})(?:\.\.-?(\d{1,9}))?\}")
NOT_EXPANDED = re.compile(r"(?<!\$)\{[^{}\s\"]*(?:,|\.\.)[^{}\s\"]*\}")
"""`{0..3}` or `{0..6..2}`, and other braces of bash: `{a..c}`, `{a,b}`."""
CHANGES = re.compile(r"\$\{(\w+)(##?|%%?|,,|\^\^|//?(?!.*[*?\[]))([^$]*)\}", re.DOTALL)
CASES: Mapping[str, Callable[[str], str]] = {",,": str.lower, "^^": str.upper}
KEYS = re.compile(r"\$\{!(\w+)\[[@*]\]\}")
CONDITIONS = ("if_statement", "while_statement", "case_statement")
WORDS = ("string", "raw_string", "ansi_c_string", "concatenation")
CALCULATED = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod,
              "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}  # fmt: skip
SIMPLE = {"command", "comment", "declaration_command", "test_command", "variable_assignment", ";", "\n"}
ALTERNATIVES = ("elif_clause", "else_clause")
ASSIGNMENTS = ("variable_assignment", "variable_assignments")
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
    """One simple command. where: `line 3`. undefined: the undefined variables and `$(…)` in its words.

    alternative: it is in an `else` or another branch that is not the first. environment: the variables before it.
    """

    where: str
    words: tuple[str, ...]
    undefined: tuple[str, ...] = ()
    alternative: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """The commands of a text. comments: (where, text) of comment lines. exported: variables that commands get.

    plain: does it run its commands one after the other, whatever they return? variables: their last values, without
    those that are not known.
    """

    commands: list[Command] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    comments: list[tuple[str, str]] = field(default_factory=list)
    exported: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    plain: bool = False


def read(
    text: str,
    variables: Mapping[str, str] | None = None,
    unfinished: Callable[[Sequence[str]], bool] = lambda words: False,
    arguments: Sequence[str] = (),
) -> Script:
    """Parse a shell script, with variables substituted from its assignments and from `variables`.

    Loops over words and calls of the text's own functions are followed; nothing else is executed.
    unfinished: true for a command that the next line must continue, to detect missing backslashes. arguments: its
    `$0`, `$1` and so on.
    """
    reader = _Reader({name: ([value], ()) for name, value in (variables or {}).items()}, unfinished, arguments)
    lines = reader.repaired(text.splitlines())
    at = tries = 0
    while at < len(lines) and reader.left > 0:
        end = len(lines) if tries < TRIES else line_end(lines, at)
        wrong = reader.parse(lines, at, end)
        at = end if wrong == end else reader.parse_alone(lines, wrong)
        tries += wrong < end
    return replace(reader.script, variables=reader.plain())


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
    """Follows the statements of a script.

    functions: name → its body. inside: in a condition. alternative: in a branch that is not the first.
    """

    def __init__(
        self, known: dict[str, Value], unfinished: Callable[[Sequence[str]], bool], arguments: Sequence[str]
    ) -> None:
        self.script, self.known, self.unfinished, self.arguments = Script(), known, unfinished, arguments
        self.functions: dict[str, Node] = {}
        self.undefined: list[str] = []
        self.inside = self.alternative = False
        self.depth = self.first_row = 0
        self.left, self.budget, self.last_row = STEPS, LONGEST, -1

    def repaired(self, lines: Sequence[str]) -> list[str]:
        """The lines without prompts, and with the shell's own continuations."""
        found: list[str] = []
        docker, until, unit = False, 0, "[Service]" in lines
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
            line = re.sub(r"%([in])\b", r"${\1}", line) if unit else line
            for pattern, new in SPELLINGS:
                line = pattern.sub(new, line)
            docker = bool(DOCKER.search(line)) or (docker and continued)
            if docker and WINDOWS.search(line):
                line = WINDOWS.sub(" \\\\", line)
            elif re.search(r"(?<!\\)\\[ \t]+$", line) and not line.lstrip().startswith("#"):
                self.script.findings.append(Finding("changed", f"line {row + 1}", SPACE))
                line = line.rstrip()
            line = re.sub(r"(?<!\\)((?:\\\\)*)\\$", r"\1 \\", line)
            if docker:
                line = WINDOWS_PATH.sub(lambda one: one[0].replace("\\", "\\\\"), line)
            found.append(PLACEHOLDER.sub(lambda one: one[0].translate(HIDDEN), line))
        return found

    def parse(self, lines: Sequence[str], start: int, end: int) -> int:
        """Read the lines from start to end. Returns the row of the first statement that is not valid, or end."""
        root = parser().parse("\n".join(lines[start:end]).encode(errors="replace")).root_node
        wrong = start + first_error(root) if root.has_error else end
        self.script.plain = (start, wrong) == (0, len(lines)) and {node.type for node in root.children} <= SIMPLE
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
        elif node.type == "c_style_for_statement":
            self.counting_loop(node, where)
        elif node.type == "command" or (node.type in ASSIGNMENTS and shown(node).startswith("-")):  # --name=x
            self.command(node, where)
        elif node.type in (*ASSIGNMENTS, "declaration_command"):
            assignments = [node] if node.type == "variable_assignment" else node.named_children
            for one in assignments:
                if one.type == "variable_assignment":
                    self.assign(one, where, node.children[0].type == "export")
                    self.run([started for started in substitutions(one) if STARTS.search(shown(started))], where)
        elif node.type in CONDITIONS:
            if node.type == "while_statement" and STARTS.search(shown(node)):
                self.script.findings.append(Finding("open", where, "repeats as long as a command says so; read once."))
            before = self.inside, self.alternative
            items = [child for child in node.named_children if child.type == "case_item"]
            for child in node.named_children:  # what a condition runs, runs
                condition = child == node.child_by_field_name("condition")
                later = child.type in ALTERNATIVES or child in items[1:]
                self.inside, self.alternative = before[0] or not condition, before[1] or later
                self.run([child], where if condition else "")
            self.inside, self.alternative = before
        elif node.type in ("list", "pipeline", "redirected_statement", "negated_command"):
            self.run(node.children, where)
        elif node.type not in ("test_command", "file_redirect", *REDIRECTIONS):
            self.run(node.children)

    def command(self, node: Node, where: str) -> None:
        """Read one simple command, or call a function of the text."""
        words: list[str] = []
        variables = {}
        around = node.parent.children_by_field_name("redirect") if node.parent else []
        for child in [*([node] if node.type == "variable_assignment" else node.named_children), *around]:
            if child.type == "file_redirect":  # has all words behind it
                words += self.words(child.children_by_field_name("destination")[1:])
            elif child.type == "variable_assignment" and not shown(child).startswith("-"):
                name, value = map(child.child_by_field_name, ("name", "value"))
                variables[shown(name)] = "".join(text for text, _ in self.pieces(value)) if value else ""
                self.undefined = []  # the command's words are defined
            elif child.type not in REDIRECTIONS:
                words += self.words([child])
        if words and words[0] in self.functions:
            before, self.arguments = self.arguments, words
            self.run([self.functions[words[0]]])
            self.arguments = before
        elif words[:1] == ["shift"] and self.arguments and re.fullmatch(r"\d{0,4}", "".join(words[1:])):
            self.arguments = [self.arguments[0], *self.arguments[1 + int("".join(words[1:]) or 1) :]]
        elif STARTS.search(text := text_run(words)):
            nested = read(text, self.plain(), self.unfinished)
            self.script.findings += [replace(one, where=where) for one in nested.findings]
            for one in nested.commands:
                undefined = tuple(dict.fromkeys([*self.undefined, *one.undefined]))
                self.script.commands.append(replace(one, where=where, undefined=undefined))
        elif words[:1] == ["read"] and (given := [one for one in node.named_children if one.type == REDIRECTIONS[1]]):
            text = "".join(text for one in given[0].named_children for text, _ in self.pieces(one))
            self.read_words(words[1:], text.replace(END, " "), variables.get("IFS", " \t\n"))
        elif words:
            first, last = (self.first_row + point.row for point in (node.start_point, node.end_point))
            if first == self.last_row + 1 and self.continues(words):
                before_it = self.script.commands.pop()
                self.script.findings.append(Finding("changed", f"line {first}", MISSING))
                where, words = before_it.where, [*before_it.words, *words]
                self.undefined = [*before_it.undefined, *self.undefined]
            undefined = tuple(dict.fromkeys(self.undefined))
            self.script.commands.append(Command(where, tuple(words), undefined, self.alternative, variables))
            self.last_row = last

    def plain(self) -> dict[str, str]:
        """The variables whose value is one word that is known."""
        return {name: words[0] for name, (words, undefined) in self.known.items() if len(words) == 1 and not undefined}

    def read_words(self, words: Sequence[str], text: str, separators: str) -> None:
        """Set the variables of `read NAME… <<< TEXT`, or the array of `read -a`."""
        names, undefined = [word for word in words if not word.startswith("-")], tuple(self.undefined)
        array = any(re.fullmatch("-r?a", word) for word in words)
        ends = rf"\s*[{re.escape(separators)}]\s*" if separators else r"\Z"
        parts = re.split(ends, text) if array or names[1:] else [text]
        rest = re.split(ends, text, maxsplit=len(names) - 1)[len(names) - 1 :]  # the last name takes it
        values = [parts] if array else [[part] for part in [*parts[: len(names) - 1], *rest]]
        self.known |= {name: (value, undefined) for name, value in zip(names, values, strict=False)}

    def continues(self, words: Sequence[str]) -> bool:
        """True if the words can only be the rest of the command before them."""
        before = self.script.commands[-1].words if self.script.commands else ()
        meant = words[0].startswith("-") or self.unfinished(before)
        return bool(meant and DOCKER.search(" ".join(before))) and not re.fullmatch(f"sudo|{DOCKER.pattern}", words[0])

    def assign(self, node: Node, where: str, exported: bool) -> None:
        """Read `NAME=value`, `NAME+=value`, `NAME=(…)`."""
        name, value = shown(node.child_by_field_name("name")), node.child_by_field_name("value")
        if self.inside:
            unknown = value is not None and re.fullmatch(r"\"?\$(OPTARG|\d)\"?", shown(value))  # of the caller
            taken = not (unknown or "".join(self.known.get(name, ((), ()))[0]))
            how = "taken, because nothing before sets it" if taken else "ignored"
            self.script.findings.append(Finding("open", where, f"sets {name} under a condition; {how}."))
            if not taken:
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
        name, body = shown(node.child_by_field_name("variable")), node.children_by_field_name("body")
        items = self.words(node.children_by_field_name("value"))[:MOST]
        braces = [braces for item in items for braces in NOT_EXPANDED.findall(item)]
        undefined = tuple(dict.fromkeys([*self.undefined, *braces]))
        if undefined and items:
            self.script.findings.append(Finding("open", where, f"repeats for {', '.join(undefined)}; read once."))
            items = [f"${name}"]
        for item in items:
            self.known[name] = ([item], undefined)
            self.run(body)

    def counting_loop(self, node: Node, where: str) -> None:
        """Read the body of `for ((i=0; i<4; i++))` for each number, once if they are not known."""
        start, condition, update = map(node.child_by_field_name, ("initializer", "condition", "update"))
        body = node.children_by_field_name("body")
        if start and start.type == "variable_assignment":
            first = self.value_of(start.child_by_field_name("value") or start)
            self.known[shown(start.child_by_field_name("name"))] = ([] if first is None else [str(first)], ())
        name = shown(update).removesuffix("++").removeprefix("++")
        steps = update is not None and "++" in shown(update) and re.fullmatch(r"\w+", name)
        if not (condition and steps) or self.value_of(condition) is None:
            what = f"repeats while `{shown(condition)}`; read once." if condition else "repeats for ever; read once."
            self.script.findings.append(Finding("open", where, what))
            self.run(body)
            return
        for _ in range(MOST):
            number = "".join(self.known.get(name, ((), ()))[0])
            if not self.value_of(condition) or not number.isdecimal():
                break
            self.run(body)
            self.known[name] = ([str(int(number) + 1)], ())

    def value_of(self, node: Node) -> int | None:
        """The number of an arithmetic expression, None if it is unknown."""
        text = shown(node)
        if node.type in ("arithmetic_expansion", "parenthesized_expression") and len(node.named_children) == 1:
            return self.value_of(node.named_children[0])
        if node.type == "binary_expression" and len(node.children) == 3 and len(text) < MOST:
            first, second = (self.value_of(node.children[at]) for at in (0, 2))
            sign = shown(node.children[1])
            if first is None or second is None or sign not in CALCULATED or (sign in "/%" and not second):
                return None
            return int(CALCULATED[sign](first, second))
        if counted := re.fullmatch(r"\$\{#(\w+)\[[@*]\]\}", text):
            items, missing = self.known.get(counted[1], ((), ()))
            return len(items) if items and not missing else None
        text = "".join(self.known.get(text.strip("${}"), ([text], ()))[0])
        return int(text) if re.fullmatch(r"\d{1,9}", text) else None

    def sequence(self, node: Node) -> Sequence[int]:
        """The numbers of `$(seq 0 3)`; none for anything else."""
        if node.type != "command_substitution" or not re.match(r"(\$\(|`)\s*seq\s", shown(node)):
            return ()
        undefined, self.undefined = self.undefined, []
        texts = self.words(node.named_children[0].named_children)[1:]
        self.undefined = undefined
        if not 1 <= len(texts) <= 2 or not all(re.fullmatch(r"\d{1,9}", text) for text in texts):
            return ()
        first, last = (int(texts[0]) if texts[1:] else 1), int(texts[-1])
        return range(first, min(last, first + MOST) + 1)

    def words(self, nodes: Iterable[Node]) -> list[str]:
        """The words that the words of a command become."""
        found: list[str] = []
        for node in nodes:
            pieces = self.pieces(node) if node.type != "comment" else ()
            joined = "".join(re.sub(r"\s+", END, text) if splits else BEGUN + text for text, splits in pieces)
            words = [word.replace(BEGUN, "") for word in joined.split(END) if word]
            unquoted = node.type in ("brace_expression", "concatenation")
            found += [one for word in words for one in expanded_ranges(word)] if unquoted else words
        return found

    def pieces(self, node: Node, quoted: bool = False) -> Iterator[Piece]:
        """The parts of a word with their values. quoted: it is not split."""
        text = shown(node)
        if node.type == "raw_string":
            yield text if quoted else text[1:-1], False
        elif node.type == "ansi_c_string":
            yield re.sub(r"\\(.)", lambda one: {"n": "\n", "t": "\t"}.get(one[1], one[1]), text[2:-1]), False
        elif numbers := self.sequence(node):
            for at, number in enumerate(numbers):
                yield from ([(END, True)] if at else [])
                yield str(number), False
        elif node.type in EXPANSIONS:
            yield from self.expanded(node, text, quoted)
        elif node.type == "string":
            if not re.search(r"\$\{?[@*]|\[[@*]\]", text):
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
        if node.type == "arithmetic_expansion" and (number := self.value_of(node)) is not None:
            yield str(number), False
            return
        name, sign, at = text.removeprefix("$"), "", 0
        part: slice | None = None
        change = CHANGES.fullmatch(text)
        if (keys := KEYS.fullmatch(text)) and (items := self.known.get(keys[1], ((), ()))[0]):
            for number, item in enumerate(items):
                yield from ([(END, True)] if number else [])
                yield item[1:].partition("]=")[0] if item.startswith("[") else str(number), False
            return
        element: Value = (), ()
        if change:
            name = change[1]
        elif node.type == "expansion" and node.named_children:
            first = node.named_children[0]
            name, at = shown(first), first.end_byte
            following = first.next_sibling.type if first.next_sibling else ""
            if re.fullmatch(":?[-+?=]", following):
                sign, at = following[-1], at + len(following)
            elif following == ":" and (numbers := self.bounds(node)):
                part = slice(numbers[0], sum(numbers) if numbers[1:] else None)
            elif following != "}" or first != node.children[1]:
                name = text  # ${NAME##*/}, ${#NAME} and the like
            if first.type == "subscript" and name != text:
                element = self.element(first)
        elif text in ("$(pwd)", "`pwd`"):
            name, text = "PWD", "$PWD"
        elif re.fullmatch(r"\$[$?!#-]", text):
            yield text, False
            return
        every = re.fullmatch(r"(\w+)\[[@*]\]|[@*]", name)
        of_all = self.arguments[part or slice(1, None)] if every and not every[1] else ()
        of_call = self.arguments[int(name) :][:1] if name.isdigit() else of_all
        known = element if element[0] else self.known.get(every[1] or "" if every else name, ((), ()))
        values, missing = (of_call, ()) if of_call else known
        there = bool("".join(values))
        if (sign and sign in "-=" and not there) or (sign == "+" and there):
            self.depth += 1
            yield from self.parts(node, at, node.end_byte - 1, quoted) if self.depth < DEEPEST else ()
            self.depth -= 1
            return
        if sign == "+":
            return
        if not values and not (every and (self.arguments or every[1] in self.known)):
            self.undefined.append(text if change else f"${name}" if sign or re.fullmatch(r"\w+", name) else text)
            yield self.undefined[-1], False
            return
        self.undefined += missing
        if part and not of_all:
            values = values[part] if every else [value[part] for value in values[:1]]
        if change:
            values = [changed(value, change[2], change[3]) for value in values[:1]]
        for number, value in enumerate(values if every else values[:1]):
            if number:
                yield END, True
            yield value[: self.budget], not (quoted or every or re.search(r"\$\(|`", value))
            self.budget = max(self.budget - len(value), 0)

    def bounds(self, node: Node) -> list[int]:
        """The numbers of `${@:2}` or `${NAME:0:4}`; [] if they are not known."""
        numbers = [self.value_of(one) for one in node.named_children[1:]]
        return [number for number in numbers if number is not None] if None not in numbers else []

    def element(self, node: Node) -> Value:
        """The value of `ARRAY[0]`, nothing if it is not known."""
        items, missing = self.known.get(shown(node).partition("[")[0], ((), ()))
        key = "".join(self.words(node.named_children[-1:])) if items else ""
        index = self.value_of(node.named_children[-1]) if items else None
        found = items[index : index + 1] if index is not None else ()
        found = [item.partition("]=")[2] for item in items if item.startswith(f"[{key}]=")] or found
        return found, tuple(one for one in missing if one in "".join(found))


def expanded_ranges(word: str) -> list[str]:
    """The words that bash makes of `{0..3}` in a word.

    >>> expanded_ranges("gpu{08..10}"), expanded_ranges("{3..1}"), expanded_ranges("{0..6..3}")
    (['gpu08', 'gpu09', 'gpu10'], ['3', '2', '1'], ['0', '3', '6'])
    """
    found, at = [""], 0
    for one in RANGE.finditer(word):
        first, last, step = int(one[1]), int(one[2]), int(one[3] or 1) or 1
        padded = re.match(r"-?0\d", one[1]) or re.match(r"-?0\d", one[2])
        width = max(len(one[1]), len(one[2])) if padded else 0
        numbers = (range(first, last + 1, step) if first <= last else range(first, last - 1, -step))[:MOST]
        found = [f"{before}{word[at : one.start()]}{number:0{width}}" for before in found for number in numbers][:MOST]
        at = one.end()
    return [before + word[at:] for before in found]


def text_run(words: Sequence[str]) -> str:
    """The text that `eval TEXT` or `sh -c TEXT` runs, "" for another command.

    >>> text_run(["eval", "docker run", "x"]), text_run(["sudo", "bash", "-ec", "docker run x"]), text_run(["ssh", "a"])
    ('docker run x', 'docker run x', '')
    """
    if words[:1] == ["eval"]:
        return " ".join(words[1:])
    found = re.fullmatch(r"(?:sudo )?(?:\S*/)?(?:ba|da|z)?sh -[a-z]*c (.*)", " ".join(words), re.DOTALL)
    return found[1] if found else ""


def changed(value: str, sign: str, pattern: str) -> str:
    r"""The value of `${NAME#PATTERN}` and of bash's other changes to a value.

    >>> changed("a:b:c", "#", "*:"), changed("a/b/c", "##", "*/"), changed("a:b:c", "%", ":*")
    ('b:c', 'c', 'a:b')
    >>> changed("Org/A", ",,", ""), changed("a/b/c", "//", r"\//-"), changed("a/b/c", "/", r"\//")
    ('org/a', 'a-b-c', 'ab/c')
    """
    if sign in CASES:
        return CASES[sign](value)
    if sign in ("/", "//"):
        old, _, new = re.sub(r"\\(.)", lambda one: "\0" if one[1] == "/" else one[1], pattern).partition("/")
        return (
            value.replace(old.replace("\0", "/"), new.replace("\0", "/"), -1 if sign == "//" else 1) if old else value
        )
    ends = range(len(value) + 1)
    if sign[0] == "#":
        cuts = (at for at in (reversed(ends) if sign[1:] else ends) if fnmatchcase(value[:at], pattern))
        return value[next(cuts, 0) :]
    cuts = (at for at in (ends if sign[1:] else reversed(ends)) if fnmatchcase(value[at:], pattern))
    return value[: next(cuts, len(value))]


def literal(source: bytes, escaped: str) -> Iterator[Piece]:
    """A literal part of a word without its escapes."""
    text = source.decode(errors="replace").translate(SHOWN)
    if text:
        yield re.sub(escaped, lambda one: one[1].strip("\n"), text, flags=re.DOTALL), False


def substitutions(node: Node) -> list[Node]:
    """The commands of `$(…)` in a node."""
    if node.type == "command_substitution":
        return list(node.named_children)
    return [found for child in node.named_children for found in substitutions(child)]


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
