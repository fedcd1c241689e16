"""Why apt, dnf or yum failed, in a sentence with a hint. Pure.

The texts are those of apt 2.6 to 3.0, dnf 4.23 and dnf5 5.4 (of yum 3, those that others reported), in English
(LC_ALL=C). `AVAILABLE` lines are printed by plan/packages/apt.py and plan/packages/rpm.py.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages.base import Pin, upstream
from gpurack.shell import sh
from gpurack.spec.problems import Problem

OURS = "gpurack-"
AVAILABLE = "there: "
"""Begins the lines that say which versions of a package exist and where."""
SHOWN = 8
"""The number of versions, the newest, that a sentence names at most."""
There = Mapping[str, Sequence[tuple[str, str]]]
"""Package → (version, repository) of everything in the repositories, oldest first."""


Patterns = Sequence[tuple[str, Callable[[re.Match[str], str, There], Problem | None]]]


def explain(lines: Sequence[str], program: str) -> Problem | None:
    """Return the sentence for the output of a failed command of dnf or yum; None if the error is unknown.

    program: the one that the host has, for commands in the sentence.
    """
    found = _explain(lines, RPM_ERRORS)
    if found is None:
        return None
    parts = {name: text.replace("{program}", program) for name, text in found.parameters}
    return Problem.of(found.code, **parts)


def explain_apt(lines: Sequence[str]) -> Problem | None:
    """Return the same for apt and dpkg."""
    return _explain(lines, APT_ERRORS)


def _explain(lines: Sequence[str], patterns: Patterns) -> Problem | None:
    text, there = "\n".join(lines), available(lines)
    for pattern, problem_in in patterns:
        found = re.search(pattern, text, re.MULTILINE)
        problem = found and problem_in(found, text, there)
        if problem:
            return problem
    return None


def available(lines: Sequence[str]) -> There:
    """Parse `there: docker-ce 3:26.1.5-1.el9@gpurack-docker-ce 3:28.5.2-1.el9@gpurack-docker-ce`."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        if line.startswith(AVAILABLE):
            name, *entries = line.split()[1:]
            found[name] = [(version, repository) for version, _, repository in (e.partition("@") for e in entries)]
    return found


def _wrong_key(found: re.Match[str], text: str, there: There) -> Problem:
    repository = found["repository"]
    key = f" ({paths.RPM_KEYS}/{repository}.asc)" if repository.startswith(OURS) else ""
    return Problem.of("repository-not-signed", repository=repository, key=key)


def _wrong_package_key(found: re.Match[str], text: str, there: There) -> Problem:
    return Problem.of("package-not-signed", package=found["package"])


def _unreachable(found: re.Match[str], text: str, there: There) -> Problem:
    repository = found["repository"]
    detail = re.search(r"^(?: +-|>>>) ((?:Curl error|Status code).*? for http\S+)", text, re.MULTILINE)
    why = f": {detail[1]}" if detail else ""
    hint = (
        "Check that the host can reach it, or set a mirror in the inventory's mirrors."
        if repository.startswith(OURS)
        else "gpurack does not manage it: fix it, or disable it."
    )
    return Problem.of("repository-unreachable", repository=repository, why=why, hint=hint)


def _no_match(found: re.Match[str], text: str, there: There) -> Problem | None:
    spec = found["spec"]
    name = max((name for name in there if spec.startswith(f"{name}-")), key=len, default=None)
    if name is None:
        return Problem.of("package-not-found", package=spec.removesuffix("-*"), command="{program} repolist")
    return _other_versions(name, spec.removeprefix(f"{name}-").removesuffix("-*"), there)


def _other_versions(name: str, version: str, there: There) -> Problem:
    return Problem.of("version-not-found", package=name, version=version, versions=newest(v for v, _ in there[name]))


def newest(versions: Iterable[str]) -> str:
    """Return upstream's numbers of the newest of a package's versions, oldest first.

    >>> newest(["3:28.10.0-1.el9", "3:28.5.2-1.el9", "3:28.5.2-2.el9"])
    '28.5.2, 28.10.0'
    """
    numbers = {tuple(map(int, re.findall(r"\d+", upstream(version)))): upstream(version) for version in versions}
    return ", ".join(numbers[number] for number in sorted(numbers)[-SHOWN:])


def listed_instead(package: str, version: str, facts: HostFacts, repository: str | None = None) -> str:
    """Return the newest versions in the host's package lists, if a pinned one is not among them; else "".

    repository: as the lists name the one that the package comes from; None: any. Also "" where its lists are missing or
    older than a day: a run renews them, and says so itself.
    """
    there = facts.carried.get(package, ())
    known = any(found.fresh and repository in (None, found.repository) for found in there)
    if not known or any(Pin(version).met_by(found.version) for found in there):
        return ""
    return newest(found.version for found in there)


def _lacks(found: re.Match[str], text: str, there: There) -> Problem:
    return Problem.of("dependency-not-found", package=found["package"], what=found["what"].strip())


def _kept_away(found: re.Match[str], text: str, there: There) -> Problem:
    return Problem.of("package-hidden", package=found["spec"].removesuffix("-*"), program="{program}")


def _do_not_fit(found: re.Match[str], text: str, there: There) -> Problem:
    repositories: dict[str, list[str]] = {}
    for name, entries in there.items():
        if "nvidia-container" in name:
            for version, repository in entries:
                repositories.setdefault(repository, []).append(upstream(version))
    if len({frozenset(versions) for versions in repositories.values()}) > 1:
        which = "; ".join(
            f"{repository} has {', '.join(list(dict.fromkeys(versions))[-SHOWN:])}"
            for repository, versions in sorted(repositories.items())
        )
        return Problem.of("toolkit-versions-conflict", which=which, how=_keep_out(text))
    return Problem.of("packages-conflict", what=" ".join(found["problem"].split()))


def _keep_out(text: str) -> str:
    if re.search(r"(?m)^E: ", text):
        return (
            "Package: nvidia-container-toolkit* libnvidia-container*, Pin: origin HOST, Pin-Priority: -1 in a file of "
            "/etc/apt/preferences.d."
        )
    return "excludepkgs=nvidia-container-toolkit*,libnvidia-container* in its .repo file."


def _broken_database(found: re.Match[str], text: str, there: There) -> Problem:
    return Problem.of("rpm-database-broken")


def _no_room(found: re.Match[str], text: str, there: There) -> Problem:
    return Problem.of("no-disk-space", what=found["what"].strip(" ."))


def _unsigned_for_apt(found: re.Match[str], text: str, there: There) -> Problem:
    return Problem.of("repository-not-signed", repository=found["url"].rstrip("/"), key="")


def _unreachable_for_apt(found: re.Match[str], text: str, there: There) -> Problem:
    detail = re.search(r"(?m)^ +(\d{3} +\S.*?)(?: \[IP: .*\])?$", text)
    why = found.groupdict().get("why") or (detail and " ".join(detail[1].split())) or "it has no Release file"
    hint = (
        "Check that the host can reach it, or set a mirror in the inventory's mirrors. "
        "Repositories that gpurack does not manage are in /etc/apt/sources.list.d."
    )
    told = {"repository": found["url"].rstrip("/"), "why": f": {why.strip().rstrip('.:')}", "hint": hint}
    return Problem.of("repository-unreachable", **told)


def _no_version_for_apt(found: re.Match[str], text: str, there: There) -> Problem:
    name, version = found["name"], re.sub(r"^\d+:|-?\*$", "", found["spec"])
    if name not in there:
        return Problem.of("package-not-found", package=f"{name} {version}", command=sh("apt-cache policy {}", name))
    return _other_versions(name, version, there)


def _not_located(found: re.Match[str], text: str, there: There) -> Problem:
    name = found["name"]
    return Problem.of("package-not-found", package=name, command=sh("apt-cache policy {}", name))


def _same_file(found: re.Match[str], text: str, there: There) -> Problem:
    command = sh("apt-get remove {}", found["package"])
    return Problem.of("package-file-conflict", package=found["package"], file=found["file"], command=command)


RPM_ERRORS: Patterns = (
    (r"rpmdb open failed|cannot open Packages (?:database|index)", _broken_database),
    (r"metadata for repo '(?P<repository>[^']+)': repomd.xml GPG signature verification error", _wrong_key),
    (r"^ (?P<repository>\S+) .*\n>>> repomd.xml GPG signature verification error", _wrong_key),  # dnf5
    (r"Failing package is: (?P<package>\S+)", _wrong_package_key),
    (r"OpenPGP check for package \"(?P<package>[^\"]+)\"", _wrong_package_key),  # dnf5
    (r"metadata for repo '(?P<repository>[^']+)'", _unreachable),
    (r"^ (?P<repository>\S+) .*\n>>> (?:Curl error|Status code).* for http", _unreachable),  # dnf5
    (r"filtered out by (?:exclude|modular) filtering for argument: (?P<spec>\S+)", _kept_away),
    (r"Argument '(?P<spec>\S+)' matches only (?:packages excluded|excluded packages)", _kept_away),  # dnf5
    (r"(?:Unable to find a match|No match for argument): (?P<spec>\S+)", _no_match),
    (r"^No package (?P<spec>\S+) available", _no_match),  # yum 3
    (r"^Error: Package: (?P<package>\S+) .*\n +Requires: (?P<what>.*)", _lacks),  # yum 3
    (r"(?P<what>At least \S+ more space needed.*|No space left on device)", _no_room),
    (r"^ *Problem:? *(?:\d+: )?(?P<problem>.*(?:\n +- .*){0,2})", _do_not_fit),
)

_APT_URL = r"(?P<url>\S+?)(?:/dists/\S+|/+(?:In)?Release\S*)"
APT_ERRORS: Patterns = (
    (r"^E: The repository '(?P<url>\S+) .*' is not signed", _unsigned_for_apt),
    (r"^E: The repository '(?P<url>\S+) .*' does not have a Release file", _unreachable_for_apt),
    (rf"^E: Failed to fetch {_APT_URL} +.*(?:sqv|gpgv|[Ss]ignature|_PUBKEY|KEYSIG|BADSIG)", _unsigned_for_apt),
    (rf"^E: Failed to fetch {_APT_URL} +(?P<why>.*?)(?: *\[IP: .*\])?$", _unreachable_for_apt),
    (r"^E: Version '(?P<spec>\S+)' for '(?P<name>\S+)' was not found", _no_version_for_apt),
    (r"^E: Unable to locate package (?P<name>\S+)", _not_located),
    (r"^E: Package '(?P<name>\S+)' has no installation candidate", _not_located),
    (r"trying to overwrite '(?P<file>[^']+)', which is also in package (?P<package>\S+)", _same_file),
    (r"(?P<what>You don't have enough free space in \S+|No space left on device)", _no_room),
    (r"unmet dependencies:\n(?P<problem>(?: .*\n)+)", _do_not_fit),
)
