"""The commands and compose files in Markdown notes and in here-documents of scripts. Prose is skipped."""

import html
import re
from itertools import pairwise

from gpurack.importing.compose_file import is_compose
from gpurack.importing.compose_yaml import dotenv
from gpurack.importing.words import HEREDOC

FENCE = re.compile(r"^(?P<indent>[ \t>]*)(?P<mark>`{3,}|~{3,})\s*(?P<language>[\w+.-]*)[^`]*$")
SHELL = ("", "sh", "bash", "shell", "console", "zsh", "shell-session", "powershell", "ps1", "cmd", "bat", "text", "txt")
YAML = ("yaml", "yml", "docker-compose", "compose", "dockercompose")
INDENTED = re.compile(r"^( {4,}|\t)[ \t]*([$#]\s+)?(sudo\s+)?(docker|podman|nvidia-docker)\s+(run|build|exec|create)\b")
OF_A_SCRIPT = re.compile(r"^([$#]\s|sudo\s)*(docker|podman|nvidia-docker)\s|\b(do|then|else)\s*$|\{\s*$", re.MULTILINE)
"""Lines in which a script with indented commands differs from notes."""
ENTITY = re.compile(r"&(#\d+|quot|gt|lt|amp|apos);")


def is_markdown(text: str) -> bool:
    """True if the text has fenced blocks, or commands only in indented ones."""
    lines = text.splitlines()
    indented = any(INDENTED.match(line) and not before.strip() for before, line in pairwise(lines))
    return any(FENCE.match(line) for line in lines) or (indented and not OF_A_SCRIPT.search(text))


def has_blocks(text: str) -> bool:
    """True if a compose file can only be a part of the text."""
    return is_markdown(text) or any(HEREDOC.search(line) for line in text.splitlines())


def split(text: str) -> tuple[str, list[tuple[int, str]]]:
    """(the shell commands at their lines, other lines empty; the compose files with their first lines)"""
    shell: list[str] = []
    compose: list[tuple[int, str]] = []
    if not is_markdown(text):
        return text, documents(text)
    lines = ENTITY.sub(lambda found: html.unescape(found[0]), text).splitlines()  # of a saved web page
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if not fence:
            start = at
            while INDENTED.match(lines[start]) and at + 1 < len(lines) and lines[at].rstrip().endswith("\\"):
                at += 1
            indented = bool(INDENTED.match(lines[start]))
            shell += lines[start : at + 1] if indented else [""]
            at += 1
            continue
        end = next(
            (n for n in range(at + 1, len(lines)) if lines[n].strip(" \t>").startswith(fence["mark"])), len(lines)
        )
        indent = len(fence["indent"])
        body = [line[indent:] if not line[:indent].strip(" \t>") else line for line in lines[at + 1 : end]]
        block, language = "\n".join(body), fence["language"].lower()
        is_file = is_compose(block) and language in (*YAML, *SHELL)
        if is_file and not HEREDOC.search(block):
            compose.append((at + 2, block))
        is_shell = language in SHELL and not (is_file and not HEREDOC.search(block))
        if is_shell:
            compose += [(at + 1 + number, document) for number, document in documents(block)]
        shell += ["", *(body if is_shell else [""] * len(body)), *([""] if end < len(lines) else [])]
        at = end + 1
    return "\n".join(shell), compose


def documents(text: str) -> list[tuple[int, str]]:
    """The compose files in here-documents, with their first lines."""
    return [(line, body) for line, _, body in heredocs(text) if is_compose(body)]


def variables(text: str) -> dict[str, str]:
    """The variables of the `.env` files that here-documents write."""
    files = (dotenv(body) for _, command, body in heredocs(text) if re.search(r"(^|[\s/>])\.env\b", command))
    return {name: value for file in files for name, value in file.items()}


def heredocs(text: str) -> list[tuple[int, str, str]]:
    """(first line, the command, the content) of each here-document."""
    lines, found = text.splitlines(), []
    for at, line in enumerate(lines):
        if opened := HEREDOC.search(line):
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == opened["word"]), len(lines))
            body = "\n".join(lines[at + 1 : end])
            found.append((at + 2, line, body if opened[1] else re.sub(r"\\([$`\\])", r"\1", body)))
    return found
