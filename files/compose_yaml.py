"""Reads the compose.yaml that gpurack wrote, since hosts have no YAML for Python. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import json
import re


def services_of(path):
    """Name → (key, label gpurack.model) of the services of a compose.yaml that gpurack wrote; None where there is none.

    It reads only the form that gpurack/plan/models/compose.py writes."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().split("\n")
    except (OSError, ValueError):
        return None
    found, inside, key = {}, False, None
    for line in lines:
        if not line.startswith(" "):
            inside, key = line.startswith('"services":'), None
        item = re.match(r"  ([^\s'\"][^\s]*|'[^']+'|\"[^\"]+\"):$", line)
        value = re.match(r'    container_name: "(.*)"$', line)
        label = re.match(r"      gpurack\.model: (\".*\")$", line)
        if inside and item:
            key, name = item.group(1).strip("'\""), None
        elif inside and key and value:
            name = value.group(1)
            found[name] = (key, found.get(name, (key, None))[1])
        elif inside and key and label:
            found[name or key] = (key, unquoted(label.group(1)))
    return found


def unquoted(text):
    """A quoted string of compose.yaml; "" where it has escapes that JSON lacks."""
    try:
        return str(json.loads(text)).replace("$$", "$")
    except ValueError:
        return ""
