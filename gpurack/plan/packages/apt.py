"""Steps for packages with apt: repository with key, versions, holds. Pure.

Facts about apt: `name=5:28.5.2-*` selects a version by prefix (apt-get(8)). Changing a held package needs
--allow-change-held-packages, a downgrade needs --allow-downgrades. DPkg::Lock::Timeout waits for dpkg's lock, but not
for the lock of the package lists.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages.base import Pin, Repository, only_file
from gpurack.plan.packages.package_errors import explain_apt
from gpurack.plan.steps import Shell, Step, written
from gpurack.resources import render
from gpurack.shell import NOTHING, Sh, grouped, sh
from gpurack.spec.network import Proxy

REMOVE = "apt-get remove"
PREREQUISITES = ("ca-certificates", "curl", "python3")
PATTERNS = {"docker-ce": "5:{}-*", "docker-ce-cli": "5:{}-*", "docker.io": "{}*"}
"""How to find an upstream version if `VERSION-*` does not match: Docker's epoch, Debian's +dfsg."""
RECOMMENDED = ("apparmor", "xz-utils", "pigz", "procps")
"""What Docker's packages recommend and a GPU host gets: docs/platforms.md says why. The rest (git, nftables, …) costs
seconds and nothing needs it; git is installed by name where an image is built."""
ENGINES = ("docker.io", "docker-ce")
BUILDKIT = "docker-buildx"
"""Debian's docker-cli recommends it. docker-ce has a plugin of its own, which conflicts with it."""
GET = sh(
    "apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=600 "
    "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
)
ENV = sh("export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C;")


def retry_while_locked(command: Sh) -> Sh:
    """Return a command (a program and its arguments) that is repeated while another process holds a lock.

    The lock of the package lists, and dpkg's own for `dpkg` and `apt-mark`, have no timeout. The apt of a killed run
    continues.
    """
    return sh(
        "tries=0; until out=$({} 2>&1); do "
        'case "$out" in *"Could not get lock"*|*"frontend lock"*|*"database lock"*) '
        'tries=$((tries + 1)); [ $tries -le 120 ] || { echo "$out"; exit 1; }; '
        'echo "apt is busy with another installation or update; waiting"; sleep 5;; '
        '*) echo "$out"; exit 1;; esac; done',
        command,
    )


UPDATE = retry_while_locked(sh("apt-get -q update -o Acquire::Retries=2 -o APT::Update::Error-Mode=any"))


def repository_path(repo: Repository) -> str:
    """Return its deb822 file."""
    return f"{paths.APT_SOURCES}/gpurack-{repo.name}.sources"


def key_path(repo: Repository) -> str:
    """Return the path of its key."""
    return f"{paths.KEYRINGS}/gpurack-{repo.name}.asc"


def source(repo: Repository) -> str:
    """Return the content of its file.

    repo.place: path, suite and components, as in a line of sources.list.
    """
    path, suite, *components = repo.place.split()
    return render(
        "templates/apt.sources.j2",
        uri=f"{repo.url}/{path}",
        suites=suite,
        components=" ".join(components),
        key=key_path(repo),
    )


def repository(repo: Repository, facts: HostFacts) -> list[Step]:
    """Return the steps that make our file the host's only one for this repository."""
    key = written(f"key of the {repo.name} repository", key_path(repo), repo.key, facts)
    return key + only_file(repo, repository_path(repo), source(repo), facts, without, has_entries)


def listed_as(repo: Repository, facts: HostFacts) -> str:
    """Return how the lists name a repository: its URL, then suite/component if it has components."""
    path, suite, *components = repo.place.replace("$(ARCH)", facts.arch).split()
    return " ".join([f"{repo.url}/{path}", *(f"{suite}/{component}" for component in components[:1])])


def without(text: str, marks: Iterable[str]) -> str:
    """Comment out every entry of an apt source that names one of these repositories (marks).

    In a .list file a line, in a deb822 file a stanza. Two entries for one repository with different keys are an error
    of apt ("Conflicting values set for option Signed-By").

    >>> without("deb https://a.example x y\\ndeb https://b.example x y\\n", ("b.example",))
    'deb https://a.example x y\\n# deb https://b.example x y\\n'

    Names of fields may be written in any case (deb822(5)):

    >>> without("types: deb\\nuris: https://b.example\\n", ("b.example",))
    '# types: deb\\n# uris: https://b.example\\n'
    """
    if not re.search(r"(?mi)^Types:", text):
        lines = text.splitlines(keepends=True)
        return "".join(_comment(line) if _names(line, marks) else line for line in lines)
    stanzas = re.split(r"(\n[ \t\r]*\n)", text)
    return "".join(
        "".join(map(_comment, stanza.splitlines(keepends=True))) if _names(stanza, marks) else stanza
        for stanza in stanzas
    )


def _names(text: str, marks: Iterable[str]) -> bool:
    return any(mark in line for line in text.splitlines() if not line.lstrip().startswith("#") for mark in marks)


def _comment(line: str) -> str:
    return line if not line.strip() or line.startswith("#") else f"# {line}"


def has_entries(text: str) -> bool:
    """Does an apt source contain anything but comments?"""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


def no_repository(repo: Repository, facts: HostFacts) -> list[Step]:
    """Return the step that removes our file of a repository that is no longer used.

    A broken repository would make apt refuse all of them.
    """
    path = repository_path(repo)
    if path not in facts.sources:
        return []
    return [Shell(f"remove {path}, which is no longer used", sh("rm -f {} {}", path, key_path(repo)))]


def proxy(proxy: Proxy | None, facts: HostFacts) -> list[Step]:
    """Return the step for apt's proxy. apt supports exceptions by exact names only."""
    path = paths.APT_PROXY
    if proxy is None:
        return [Shell("remove the proxy for apt", sh("rm -f {}", path))] if path in facts.files else []
    lines = [f'Acquire::{scheme}::Proxy "{proxy.url}";' for scheme in ("http", "https")]
    lines += [
        f'Acquire::{scheme}::Proxy::{name} "DIRECT";'
        for scheme in ("http", "https")
        for name in proxy.no_proxy
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", name)
    ]
    text = "// Written by gpurack from the inventory.\n" + "".join(f"{line}\n" for line in lines)
    return written(f"proxy {proxy.url} for apt", path, text, facts)


def finish_interrupted(facts: HostFacts) -> list[Step]:
    """Return the step that completes packages which a killed run left half installed.

    dpkg and apt continue most of them. They do not touch a package whose unpacking was interrupted and on which nothing
    depends. It is installed again, in its version or in another.
    """
    if not facts.audit and all(package.whole for package in facts.packages.values()):
        return []
    command = sh(
        "{environment} {configure} && {get} -f install && "
        "torn=$(dpkg-query -W -f '${db:Status-Eflag} ${binary:Package}=${Version}\\n' | sed -n 's/^reinstreq //p') && "
        '{ [ -z "$torn" ] || {anyway} $torn || {anyway} $(echo "$torn" | sed \'s/=.*//\'); }',
        environment=ENV,
        configure=retry_while_locked(sh("dpkg --configure -a")),
        get=GET,
        anyway=sh("{} install --reinstall --allow-downgrades --allow-change-held-packages", GET),
    )
    return [Shell("finish an interrupted package installation", command, slow=True, explain=explain_apt)]


def prerequisites(facts: HostFacts) -> list[str]:
    """Return the packages of the distribution that we need and the host lacks."""
    return [name for name in PREREQUISITES if not (name in facts.packages and facts.packages[name].whole)]


def spelled(name: str, pin: Pin | None) -> str:
    """Return a package as apt-get accepts it.

    >>> spelled("docker-ce", Pin("28.5.2")), spelled("curl", None), spelled("containerd.io", Pin("2.1.9-1", exact=True))
    ('docker-ce=5:28.5.2-*', 'curl', 'containerd.io=2.1.9-1')
    """
    if pin is None:
        return name
    return f"{name}={pin.version if pin.exact else PATTERNS.get(name, '{}-*').format(pin.version)}"


def recommended(packages: Iterable[str], facts: HostFacts) -> Sh:
    """Return words that become what to install beside a new Docker: what of it the host lacks and apt has."""
    if not any(name in ENGINES and name not in facts.packages for name in packages):
        return NOTHING
    return sh(
        " $(for name in {}; do [ \"$(dpkg-query -W -f '${db:Status-Status}' $name 2>/dev/null)\" = installed ] || "
        '[ -z "$(apt-cache madison $name 2>/dev/null)" ] || echo $name; done)',
        (*RECOMMENDED, *((BUILDKIT,) if adds_buildkit(packages, facts) else ())),
    )


def adds_buildkit(packages: Iterable[str], facts: HostFacts) -> bool:
    """Does Debian's BuildKit come with these packages because its Docker recommends it?"""
    present = {*packages, *facts.packages}
    return "docker.io" in packages and "docker.io" not in facts.packages and BUILDKIT not in present


def install(
    reason: str,
    packages: Mapping[str, Pin | None],
    facts: HostFacts,
    hold: Sequence[str] = (),
    before: Sequence[Sh] = (),
) -> Step:
    """Return the step that installs all packages by one apt-get, after updating the lists, and then holds.

    If it fails, it prints which versions exist and where ("there: NAME VERSION@REPOSITORY …", oldest first).
    """
    listed = sh(
        "apt-cache madison {} 2>/dev/null | awk -F ' *[|] *' '{ sub(/^ +/, \"\", $1); "
        'split($3, from, " "); all[$1] = " " $2 "@" from[1] all[$1] } '
        'END { for (name in all) print "there: " name all[name] }\'',
        packages,
    )
    installing = sh(
        "{} install --allow-downgrades --allow-change-held-packages {}{} || { {}; exit 1; }",
        GET,
        [spelled(name, pin) for name, pin in packages.items()],
        recommended(packages, facts),
        listed,
    )
    commands = [UPDATE, *before, installing]
    if adds_buildkit(packages, facts):  # as apt marks it, so that it goes when Docker goes
        commands.append(sh("{ apt-mark auto {} >/dev/null 2>&1 || :; }", BUILDKIT))
    commands += [retry_while_locked(sh("apt-mark hold {}", hold))] if hold else []
    return Shell(reason, sh("{} {}", ENV, grouped(commands)), slow=True, explain=explain_apt)


def hold(names: Sequence[str], facts: HostFacts) -> Step:
    """Return the step that prevents upgrades of packages by others."""
    return Shell(f"hold {', '.join(names)}", sh("{} {}", ENV, retry_while_locked(sh("apt-mark hold {}", names))))


def unhold(names: Sequence[str], facts: HostFacts) -> Step:
    """Return the step that releases packages, if the inventory no longer pins a version."""
    return Shell(f"no longer hold {', '.join(names)}", sh("{} {}", ENV, _unhold(names)))


def _unhold(names: Sequence[str]) -> Sh:
    return retry_while_locked(sh("apt-mark unhold {}", names))


def available(names: Sequence[str], facts: HostFacts) -> Sh:
    """See `Packages`. The lists are updated first."""
    return sh("{} { {}; } >&2; apt-cache madison {} | awk '{print $1, $3}'", ENV, UPDATE, names)


def remove(names: Sequence[str], facts: HostFacts) -> Step:
    """Return the step that removes packages, without purging: configuration and /var/lib/docker stay."""
    command = sh("{} {} && {} remove {}", ENV, _unhold(names), GET, names)
    return Shell(f"remove {', '.join(names)}", command, slow=True)
