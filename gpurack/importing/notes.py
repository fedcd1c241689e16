"""The commands and compose files in Markdown notes and in here-documents of scripts. Prose is skipped."""

import html
import re
from textwrap import dedent

from gpurack.importing.compose_file import is_compose
from gpurack.importing.compose_yaml import dotenv
from gpurack.importing.words import HEREDOC

SHELL = ("", "sh", "bash", "shell", "console", "zsh", "shell-session", "powershell", "ps1", "cmd", "bat", "text", "txt")
YAML = ("yaml", "yml", "docker-compose", "compose", "dockercompose")
BLOCK = re.compile(
    r"^[ \t>]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+.-]*)[^`\n]*\n(?P<body>(?s:.*?))(?:^[ \t>]*(?P=mark)|\Z)|"
    r"(?P<command>^( {4,}|\t)[ \t]*([$#]\s+)?(sudo\s+)?(docker|podman|nvidia-docker)\s+(run|build|exec|create)\b"
    r"(.*\\[ \t]*\n)*.*)",
    re.MULTILINE,
)
"""A fenced block, with any indentation of its lines, or an indented command."""
OF_A_SCRIPT = re.compile(r"^([$#]\s|sudo\s)*(docker|podman|nvidia-docker)\s|\b(do|then|else)\s*$|\{\s*$", re.MULTILINE)
"""Lines in which a script with indented commands differs from notes."""
ENTITY = re.compile(r"&(#\d+|quot|gt|lt|amp|apos);")


def is_markdown(text: str) -> bool:
    """True if the text has fenced blocks, or commands only in indented ones."""
    blocks = list(BLOCK.finditer(text))
    indented = any(block["command"] and re.search(r"\S.*\n[ \t]*\n\Z", text[: block.start()]) for block in blocks)
    return any(block["mark"] for block in blocks) or (indented and not OF_A_SCRIPT.search(text))


def has_blocks(text: str) -> bool:
    """True if a compose file can only be a part of the text."""
    return is_markdown(text) or any(HEREDOC.search(line) for line in text.splitlines())


def split(text: str) -> tuple[str, list[tuple[int, str]]]:
    """(the shell commands at their lines, other lines empty; the compose files with their first lines)"""
    if not is_markdown(text):
        return text, documents(text)
    text = ENTITY.sub(lambda found: html.unescape(found[0]), text)  # of a saved web page
    shell, compose = [""] * len(text.splitlines()), []
    for block in BLOCK.finditer(text):
        at = text.count("\n", 0, block.start("body" if block["mark"] else "command"))
        body = block["command"] or dedent(re.sub("(?m)^[ \t]*> ?", "", block["body"]))
        language = (block["language"] or "").lower()
        if is_compose(body) and language in (*YAML, *SHELL) and not HEREDOC.search(body):
            compose.append((at + 1, body))
        elif language in SHELL:
            compose += [(at + number, document) for number, document in documents(body)]
            shell[at : at + len(body.splitlines())] = body.splitlines()
    return "\n".join(shell), compose


def documents(text: str) -> list[tuple[int, str]]:
    """The compose files in here-documents, with their first lines."""
    return [(line, body) for line, _, body in heredocs(text) if is_compose(body)]


def variables(text: str) -> dict[str, str]:
    """The variables of the `.env` files that here-documents write."""
    files = (dotenv(body) for _, command, body in heredocs(text) if re.search(r"(^|[\s/>])\.env\b", command))
    return {name: value for file in files for name, value in file.items()}


def files(text: str, folder: str) -> dict[str, str]:
    """The files that here-documents write, by path. folder: of relative paths, if it is known; also `./` and $PWD."""
    found: dict[str, str] = {}
    for _, command, body in heredocs(text):
        if written := re.search(r"(?:[^>]>|\btee(?: -\S+)*)\s*[\"']?([\w./-]+)", HEREDOC.sub("", command)):
            path = written[1].removeprefix("./")
            places = [path] if path.startswith("/") else [path, *(f"{at}/{path}" for at in (".", "$PWD", folder))]
            found |= dict.fromkeys(places, body)
    return found


def heredocs(text: str) -> list[tuple[int, str, str]]:
    """(first line, the command, the content) of each here-document."""
    lines, found = text.splitlines(), []
    for at, line in enumerate(lines):
        if opened := HEREDOC.search(line):
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == opened["word"]), len(lines))
            body = "\n".join(lines[at + 1 : end])
            found.append((at + 2, line, body if opened[1] else re.sub(r"\\([$`\\])", r"\1", body)))
    return found
