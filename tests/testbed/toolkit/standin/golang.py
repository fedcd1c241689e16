"""What the real programs get from Go, as far as it shows: logrus, strconv, encoding/json, os, urfave/cli.

Every function says what it mirrors. The texts are held to recordings of the real programs (golden.tsv).
"""

import os
import sys
import time
from decimal import Decimal
from typing import ClassVar


class Failure(Exception):
    """An error that ends the program with `level=error msg=...` and exit code 1."""


class Panic(Exception):
    """A Go panic: exit code 2."""


class Quiet(Exception):
    """The end of the program with this exit code; everything has been said."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


def _escape(char, quote):
    if char == quote:
        return "\\" + quote
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote(text):
    """strconv.Quote"""
    return '"' + "".join(_escape(c, '"') for c in text) + '"'


def quote_char(char):
    """encoding/json's quoteChar: how an error names the character it did not want."""
    if char == "'":
        return "'\\''"
    if char == '"':
        return "'\"'"
    return "'" + _escape(char, "") + "'"


def parse_bool(text):
    """strconv.ParseBool; raises ValueError with its text."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def os_error(error):
    """The reason of an OSError as Go's *PathError prints it."""
    return os.strerror(error.errno).lower()


class Log:
    """logrus on stderr: key=value when it is no terminal, colours and seconds when it is."""

    _ORDER: ClassVar = {"debug": 0, "info": 1, "warning": 2, "error": 3}
    _COLOR: ClassVar = {"debug": 37, "info": 36, "warning": 33, "error": 31}

    def __init__(self):
        self.level = "info"
        self._start = time.monotonic()

    def _write(self, level, message):
        if self._ORDER[level] < self._ORDER[self.level]:
            return
        if sys.stderr.isatty():
            short = level.upper()[:4]
            seconds = int(time.monotonic() - self._start)
            line = f"\x1b[{self._COLOR[level]}m{short}\x1b[0m[{seconds:04d}] {message:<44} "
        else:
            plain = message and all(c.isascii() and (c.isalnum() or c in "-._/@^+") for c in message)
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            now = now[:-5] + "Z" if now.endswith("+0000") else now[:-2] + ":" + now[-2:]
            line = f'time="{now}" level={level} msg={message if plain else quote(message)}'
        sys.stderr.write(line + "\n")

    def debug(self, message):
        self._write("debug", message)

    def info(self, message):
        self._write("info", message)

    def warning(self, message):
        self._write("warning", message)

    def error(self, message):
        self._write("error", message)


# --- encoding/json -------------------------------------------------------------------------------------

_SPACE = " \t\r\n"


class _Reader:
    """json.Decoder.Decode into an interface{}: the first value only, with Go's texts for what is not JSON."""

    def __init__(self, text):
        self.text = text
        self.at = 0

    def peek(self):
        if self.at >= len(self.text):
            raise Failure("unexpected EOF")
        return self.text[self.at]

    def space(self):
        while self.at < len(self.text) and self.text[self.at] in _SPACE:
            self.at += 1

    def bad(self, where):
        return Failure(f"invalid character {quote_char(self.peek())} {where}")

    def value(self):
        self.space()
        char = self.peek()
        if char == "{":
            return self.object()
        if char == "[":
            return self.array()
        if char == '"':
            return self.string()
        if char == "-" or "0" <= char <= "9":
            return self.number()
        for word, meaning in (("true", True), ("false", False), ("null", None)):
            if char == word[0]:
                return self.literal(word, meaning)
        raise self.bad("looking for beginning of value")

    def literal(self, word, meaning):
        for expected in word:
            if self.peek() != expected:
                raise self.bad(f"in literal {word} (expecting {quote_char(expected)})")
            self.at += 1
        return meaning

    def object(self):
        self.at += 1
        result = {}
        self.space()
        if self.peek() == "}":
            self.at += 1
            return result
        while True:
            self.space()
            if self.peek() != '"':
                raise self.bad("looking for beginning of object key string")
            key = self.string()
            self.space()
            if self.peek() != ":":
                raise self.bad("after object key")
            self.at += 1
            result[key] = self.value()
            self.space()
            if self.peek() == "}":
                self.at += 1
                return result
            if self.peek() != ",":
                raise self.bad("after object key:value pair")
            self.at += 1

    def array(self):
        self.at += 1
        result = []
        self.space()
        if self.peek() == "]":
            self.at += 1
            return result
        while True:
            result.append(self.value())
            self.space()
            if self.peek() == "]":
                self.at += 1
                return result
            if self.peek() != ",":
                raise self.bad("after array element")
            self.at += 1

    def string(self):
        self.at += 1
        units = []
        while True:
            char = self.peek()
            if char == '"':
                self.at += 1
                return _join_surrogates("".join(units))
            if char < " ":
                raise self.bad("in string literal")
            self.at += 1
            if char != "\\":
                # Bytes that are no UTF-8 come in as lone surrogates and leave as U+FFFD.
                units.append("\ufffd" if 0xDC80 <= ord(char) <= 0xDCFF else char)
                continue
            escape = self.peek()
            if escape == "u":
                self.at += 1
                code = 0
                for _ in range(4):
                    if self.peek() not in "0123456789abcdefABCDEF":
                        raise self.bad("in \\u hexadecimal character escape")
                    code = code * 16 + int(self.peek(), 16)
                    self.at += 1
                units.append(chr(code))
            elif escape in '"\\/bfnrt':
                units.append({"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}.get(escape, escape))
                self.at += 1
            else:
                raise self.bad("in string escape code")

    def digits(self, where):
        if not "0" <= self.peek() <= "9":
            raise self.bad(where)
        while self.at < len(self.text) and "0" <= self.text[self.at] <= "9":
            self.at += 1

    def number(self):
        start = self.at
        if self.peek() == "-":
            self.at += 1
        if self.peek() == "0":
            self.at += 1
        else:
            self.digits("in numeric literal")
        if self.at < len(self.text) and self.text[self.at] == ".":
            self.at += 1
            self.digits("after decimal point in numeric literal")
        if self.at < len(self.text) and self.text[self.at] in "eE":
            self.at += 1
            if self.peek() in "+-":
                self.at += 1
            self.digits("in exponent of numeric literal")
        literal = self.text[start : self.at]
        number = float(literal)
        if number in (float("inf"), float("-inf")):
            raise Failure(f"json: cannot unmarshal number {literal} into Go value of type float64")
        return number


def _join_surrogates(text):
    """Two \\u escapes of a pair become one character; a lone one becomes U+FFFD, as in Go."""
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decode_json(data):
    """The first JSON value in these bytes; what follows is not looked at. Raises Failure with Go's text."""
    reader = _Reader(data.decode("utf-8", "surrogateescape"))
    reader.space()
    if reader.at >= len(reader.text):
        raise Failure("EOF")
    return reader.value()


def type_name(value):
    """What Go calls the type of a decoded JSON value."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "bool"
    return {dict: "map[string]interface {}", list: "[]interface {}", str: "string", float: "float64"}[type(value)]


def kind_name(value):
    """What encoding/json calls the JSON value that it could not unmarshal."""
    if isinstance(value, bool):
        return "bool"
    return {dict: "object", list: "array", str: "string", float: "number"}[type(value)]


def _float(number):
    """encoding/json's floatEncoder: shortest digits, exponents only below 1e-6 and from 1e21 on."""
    if number == 0:
        return "-0" if str(number).startswith("-") else "0"
    exact = Decimal(repr(number))
    if 1e-6 <= abs(number) < 1e21:
        text = f"{exact:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    sign, digits, exponent = exact.as_tuple()
    digits = "".join(map(str, digits)).rstrip("0")
    exponent += len(exact.as_tuple().digits) - 1
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    # Go writes e-09 as e-9, but keeps two digits after e+.
    power = f"e+{exponent:02d}" if exponent >= 0 else f"e-{-exponent}"
    return ("-" if sign else "") + mantissa + power


_JSON_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _string(text):
    out = []
    for char in text:
        if char in _JSON_ESCAPES:
            out.append(_JSON_ESCAPES[char])
        elif char < " " or char in "<>&\u2028\u2029":
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(char)
    return '"' + "".join(out) + '"'


def encode_json(value, indent="    ", _depth=0):
    """json.MarshalIndent(value, "", indent): keys sorted, HTML characters escaped, no newline at the end."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (int, float)):
        return _float(float(value))
    outer, inner = "\n" + indent * _depth, "\n" + indent * (_depth + 1)
    if isinstance(value, dict):
        items = [
            f"{_string(key)}: {encode_json(value[key], indent, _depth + 1)}"
            for key in sorted(value, key=lambda k: k.encode("utf-8", "surrogatepass"))
        ]
        return "{" + inner + ("," + inner).join(items) + outer + "}" if items else "{}"
    items = [encode_json(item, indent, _depth + 1) for item in value]
    return "[" + inner + ("," + inner).join(items) + outer + "]" if items else "[]"


# --- os ------------------------------------------------------------------------------------------------


def make_dirs(path):
    """os.MkdirAll(path, 0755); raises Failure with the text of its *PathError."""
    if not path or os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_dirs(parent)
    try:
        os.mkdir(path, 0o755)
    except FileExistsError as error:
        if not os.path.isdir(path):
            raise Failure(f"mkdir {path}: not a directory") from error
    except OSError as error:
        raise Failure(f"mkdir {path}: {os_error(error)}") from error


def write_in_place(path, data):
    """os.OpenFile(path, O_WRONLY|O_CREATE|O_TRUNC, 0644) and one Write: neither temporary file nor rename."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Failure(f"unable to open {path} for writing: open {path}: {os_error(error)}") from error
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise Failure(f"write {path}: {os_error(error)}") from error
    finally:
        os.close(descriptor)


# --- urfave/cli ----------------------------------------------------------------------------------------


class Flag:
    """One flag: its names, whether it takes a value, may be repeated, and the variables it is read from."""

    def __init__(self, *names, value=True, many=False, env=(), default=None):
        self.names = names
        self.value = value
        self.many = many
        self.env = env
        self.default = default if default is not None or value else False

    def from_environment(self):
        for name in self.env:
            text = os.environ.get(name)
            if text:
                if self.many:
                    return text.split(",")
                return text if self.value else parse_bool(text)
        return list(self.default or ()) if self.many else self.default


def usage_error(usage, message):
    """What a wrong flag prints: the reason on stderr, the usage on stdout; exit code 1."""
    sys.stderr.write(f"Incorrect Usage: {message}\n\n")
    sys.stdout.write(usage + "\n")
    return Failure(message)


def parse_flags(arguments, flags, usage, stop_at_word):
    """(values by each flag's first name, the words that are no flags).

    `-flag`, `--flag`, `=value` and a separate value are all the same. With `stop_at_word` (a command that has
    subcommands) the first word ends the flags and is returned with all that follows; else words are gathered.
    """
    by_name = {name: flag for flag in flags for name in flag.names}
    try:
        values = {flag.names[0]: flag.from_environment() for flag in flags}
    except ValueError as error:
        raise Failure(str(error)) from error
    seen = set()
    words = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            words += rest
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            if stop_at_word:
                words += rest
                break
            continue
        name, equals, text = word.lstrip("-").partition("=")
        if name in ("help", "h"):
            sys.stdout.write(usage + "\n")
            raise Quiet(0)
        flag = by_name.get(name)
        if flag is None:
            raise usage_error(usage, f"flag provided but not defined: -{name}")
        if not flag.value:
            try:
                values[flag.names[0]] = parse_bool(text) if equals else True
            except ValueError as error:
                raise usage_error(usage, f'invalid boolean value "{text}" for -{name}: parse error') from error
            continue
        if not equals:
            if not rest:
                raise usage_error(usage, f"flag needs an argument: -{name}")
            text = rest.pop(0)
        if flag.many:
            if flag.names[0] not in seen:  # what the command line says replaces what the environment says
                values[flag.names[0]] = []
                seen.add(flag.names[0])
            values[flag.names[0]].append(text)
        else:
            values[flag.names[0]] = text
    return values, words
