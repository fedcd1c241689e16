"""The images that a Dockerfile builds from. A part of models.py.

A build in a user's Docker gets the logins of their registries only. Runs on the host's own python3 (3.6 or newer,
standard library only).
"""

import re

LONGEST = 1 << 20  # bytes of a Dockerfile
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?)([-+])([^{}]*))?\})")


def base_images(text, args):
    """The references of all images that a Dockerfile takes something from, of any stage. args: the build's.

    Format: Docker, Dockerfile reference (FROM, ARG, COPY --from, RUN --mount, the syntax directive). A variable of
    unknown value is empty there."""
    known, stages, found = {}, {"scratch"}, []

    def add(word):
        reference = expand(word.strip("\"'"), known)
        if reference and not reference.isdigit() and reference.lower() not in stages and reference not in found:
            found.append(reference)

    for line in re.sub(r"\\[ \t]*\r?\n", " ", text).splitlines():
        verb, *words = line.split() or [""]
        syntax = re.match(r"#\s*syntax\s*=\s*(\S+)", line)
        if syntax:
            add(syntax.group(1))
        elif verb.upper() == "ARG":
            for name, equals, default in (word.partition("=") for word in words):
                if equals or name in args:
                    known[name] = str(args.get(name, expand(default.strip("\"'"), known)))
        elif verb.upper() == "FROM":
            image, *stage = [word for word in words if not word.startswith("--")] or [""]
            add(image)
            stages.update(name.lower() for name in stage[1:2])
        elif not verb.startswith("#"):
            for word in words:
                add(word[len("--from=") :] if word.startswith("--from=") else "")
                for part in word.split(",") if word.startswith("--mount=") else ():
                    add(part.rpartition("from=")[2] if part.split("=")[-2:-1] == ["from"] else "")
    return found


def expand(word, known):
    """A word with its variables replaced: $A, ${A}, ${A:-other} and ${A:+other}."""

    def value(match):
        plain, name, _, sign, other = match.groups()
        said = known.get(plain or name, "")
        if sign:
            return (other if said else "") if sign == "+" else said or other
        return said

    return VARIABLE.sub(value, word)
