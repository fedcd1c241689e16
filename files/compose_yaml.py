"""Reads the compose.yaml that gpurack wrote, since hosts have no YAML for Python. A part of models.py.

Runs on the host's own python3 (3.6 or newer, standard library only).
"""

import json
import re

SECTIONS = ("services", "secrets", "volumes")
ITEM = re.compile(r"  ([^\s'\"][^\s]*|'[^']+'|\"[^\"]+\"):( |$)")


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


def blocks_of(path):
    """Name → section → key → lines of a compose.yaml that gpurack wrote; None where there is none.

    These are the blocks of gpurack/plan/models/compose.py. What belongs to no service has the name ""."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().split("\n")
    except (OSError, ValueError):
        return None
    items, section, key = {part: {} for part in SECTIONS}, None, None
    for line in lines:
        if not line.startswith(" "):
            section, key = line.strip('":'), None
            continue
        begin = ITEM.match(line)
        key = unquoted_key(begin.group(1)) if begin else key
        if section in items and key is not None:
            items[section][key] = items[section].get(key, "") + line + "\n"
    found, owned = {}, set()
    for key, text in items["services"].items():
        named = re.search(r'(?m)^    container_name: "(.*)"$', text)
        block = found.setdefault(named.group(1) if named else key, {part: {} for part in SECTIONS})
        block["services"][key] = text
        for part, source in [(kind, source) for kind in SECTIONS[1:] for source in items[kind]]:
            if re.search(r"(?m)^ +(- )?source: {}$".format(re.escape(quoted(source))), text):
                block[part][source] = items[part][source]
                owned.add((part, source))
    rest = {
        part: {source: items[part][source] for source in items[part] if (part, source) not in owned}
        for part in SECTIONS[1:]
    }
    if any(rest.values()):
        found[""] = dict(rest, services={})
    return found


def quoted(text):
    """A value as compose.yaml has it."""
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)


def unquoted_key(text):
    return unquoted(text) if text.startswith('"') else text.strip("'")


def unquoted(text):
    """A quoted string of compose.yaml; "" where it has escapes that JSON lacks."""
    try:
        return str(json.loads(text)).replace("$$", "$")
    except ValueError:
        return ""
