"""rpm in the snapshot's output: packages, unfinished transactions, holds of versionlock. Pure."""

import fnmatch
import re
from collections.abc import Mapping, Sequence

from gpurack import paths
from gpurack.facts.parts import File, Manager, Package

LISTS = ("/etc/dnf/plugins/versionlock.list", "/etc/yum/pluginconf.d/versionlock.list")
"""The rules of dnf 4 (`docker-ce-3:28.5.2-1.el9.*`) and of yum 3 (`3:docker-ce-28.5.2-1.el7.*`), one in each line."""
TOML = "/etc/dnf/versionlock.toml"
"""The rules of dnf 5."""


def packages(lines: Sequence[str], files: Mapping[str, File]) -> dict[str, Package]:
    """Parse `name|epoch|version-release|arch|time of installation` of each package in rpm's database.

    Not whole are packages that are installed twice (an upgrade was cut short), and those that an unfinished transaction
    of ours installed.
    """
    form = re.compile(r"([A-Za-z0-9._+-]+)\|(\(none\)|\d{1,9})\|([A-Za-z0-9._+~^-]+)\|([A-Za-z0-9_()]+)\|(\d{1,18})")
    entries = sorted((match.groups() for match in map(form.fullmatch, lines) if match), key=lambda entry: int(entry[4]))
    begun, ours = unfinished(files)
    kinds = [(name, arch) for name, _, _, arch, _ in entries]
    found = {}
    for name, epoch, version, arch, time in entries:
        torn = kinds.count((name, arch)) > 1 or (name in ours and int(time) >= begun)
        spelled = version if epoch in ("(none)", "0") else f"{epoch}:{version}"
        found[name] = Package(spelled, held=is_held(name, epoch, version, arch, files), whole=not torn)
    return found


def unfinished(files: Mapping[str, File]) -> tuple[int, list[str]]:
    """Return (time of its start, its packages) of a transaction of ours that never ended; (0, []) if there is none."""
    note = files.get(paths.RPM_TRANSACTION)
    begun, *names = note.text.split() if note and note.text.split() else ["0"]
    return (int(begun), names) if re.fullmatch(r"[0-9]{1,18}", begun) else (0, names)


def is_held(name: str, epoch: str, version: str, arch: str, files: Mapping[str, File]) -> bool:
    """Does versionlock hold this package at this version? A rule that matches every version holds nothing."""
    number = "0" if epoch == "(none)" else epoch
    rules = [line.strip() for path in LISTS if path in files for line in files[path].text.splitlines()]
    spellings = (f"{name}-{number}:{version}.{arch}", f"{number}:{name}-{version}.{arch}", f"{name}-{version}.{arch}")
    other = (f"{name}-99:99.99-99.{arch}", f"99:{name}-99.99-99.{arch}", f"{name}-99.99-99.{arch}")

    def fits(rule: str, texts: tuple[str, ...]) -> bool:
        return any(fnmatch.fnmatchcase(text, pattern) for text in texts for pattern in (rule, f"{rule}.*"))

    by_list = any(fits(rule, spellings) and not fits(rule, other) for rule in rules if rule[:1] not in ("", "#", "!"))
    return by_list or (name, f"{number}:{version}") in toml_rules(files)


def toml_rules(files: Mapping[str, File]) -> set[tuple[str, str]]:
    """Return (name, epoch:version-release) of every rule of dnf 5 that names one version."""
    import tomllib  # no other host needs it

    try:
        said = tomllib.loads(files[TOML].text) if TOML in files else {}
        rules = set()
        for entry in said.get("packages", []):
            for condition in entry.get("conditions", []):
                if (condition.get("key"), condition.get("comparator")) == ("evr", "="):
                    evr = str(condition.get("value"))
                    rules.add((entry["name"], evr if ":" in evr else f"0:{evr}"))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    return rules


def manager(words: str) -> Manager:
    """Parse `dnf dnf4`, `dnf dnf5`, `yum dnf4` or `yum yum3`. Both fields are "" without a package manager for rpm.

    >>> manager("yum dnf4")
    Manager(program='yum', generation='dnf4')
    """
    program, _, generation = words.partition(" ")
    return Manager(program, generation)
