"""Steps for packages of the Red Hat family: by dnf 4 (also if called yum), dnf 5 or yum 3. Pure.

Seen on dnf 4.23 and dnf5 5.4; for yum 3 the manual was read. `install NAME-VERSION-*` downgrades as well, except with
yum 3, which has `downgrade`. A package that versionlock holds cannot be installed at another version, so a hold is
released before and set again afterwards. `versionlock add` takes the installed version and needs no repository. dnf
waits for another dnf, but not for rpm itself.

pyinfra's own operations are not used: dnf.packages ignores a pinned version silently (pyinfra#1910), dnf.repo never
updates a file, dnf.key is never idempotent.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from gpurack import paths
from gpurack.facts.model import HostFacts
from gpurack.plan.packages.base import NAME, Pin, Repository, only_file, upstream
from gpurack.plan.packages.package_errors import explain
from gpurack.plan.steps import Shell, Step, WriteFile, written
from gpurack.resources import render
from gpurack.shell import Sh, grouped, sh
from gpurack.spec.network import Proxy
from gpurack.spec.problems import Problem

REMOVE = "{program} remove"
"""{program}: dnf or yum, whichever the host has."""
VERSIONLOCK = {"dnf4": "python3-dnf-plugin-versionlock", "yum3": "yum-plugin-versionlock"}
"""The package that contains `versionlock`. dnf 5 has it built in."""
TOOLS = ("curl", "python3")
"""Needed as programs, not as packages: curl-minimal is sufficient, and conflicts with curl."""

NO_PROXY = "proxy=_none_"
"""In a repository's section: do not use the proxy of the main section (dnf.conf(5), dnf5.conf(5), yum.conf(5))."""
CACHES = (sh("/var/cache/dnf"), sh("/var/cache/libdnf5"), sh("/var/cache/yum/*/*"), sh("/var/lib/yum/repos/*/*"))


def repository_path(repo: Repository) -> str:
    """Return its .repo file."""
    return f"{paths.YUM_REPOS}/gpurack-{repo.name}.repo"


def key_path(repo: Repository) -> str:
    """Return the path of its key."""
    return f"{paths.RPM_KEYS}/gpurack-{repo.name}.asc"


def source(repo: Repository) -> str:
    """Return the content of its file. repo.place: path, then options of a .repo file."""
    path, *options = repo.place.split()
    options += [NO_PROXY] if repo.direct else []
    return render(
        "templates/rpm.repo.j2", name=repo.name, url=f"{repo.url}/{path}", options=options, key=key_path(repo)
    )


def repository(repo: Repository, facts: HostFacts) -> list[Step]:
    """Return the steps that make our file the host's only one for this repository."""
    key = facts.files.get(key_path(repo))
    steps = written(f"key of the {repo.name} repository", key_path(repo), repo.key, facts)
    if key and key.text != repo.key:
        # dnf and yum continue to trust a key that they have imported, and what they fetched with it.
        caches = [sh("{}/gpurack-{}*", folder, repo.name) for folder in CACHES]
        steps.append(Shell(f"forget what the old key of {repo.name} vouched for", sh("rm -rf {}", caches)))
    return steps + only_file(repo, repository_path(repo), source(repo), facts, without, has_entries)


def listed_as(repo: Repository, facts: HostFacts) -> str:
    """Return how the lists name a repository: its id. "" until the host has our file, because an id says no URL."""
    return f"gpurack-{repo.name}" if not repository(repo, facts) else ""


def without(text: str, marks: Iterable[str]) -> str:
    """Comment out every section of a .repo file that names one of these repositories (marks).

    >>> without("[a]\\nbaseurl=https://a.example\\n[b]\\nbaseurl=https://b.example\\n", ("b.example",))
    '[a]\\nbaseurl=https://a.example\\n# [b]\\n# baseurl=https://b.example\\n'
    """
    marks = tuple(marks)
    sections = re.split(r"(?m)^(?=\[)", text)
    return "".join(_commented(section) if _names(section, marks) else section for section in sections)


def has_entries(text: str) -> bool:
    """Does a .repo file contain any section that is not a comment?"""
    return re.search(r"(?m)^\s*\[", text) is not None


def _names(section: str, marks: Iterable[str]) -> bool:
    values = [line.partition("=") for line in section.splitlines() if not line.lstrip().startswith(("#", ";"))]
    urls = [value for key, _, value in values if key.strip() in ("baseurl", "mirrorlist", "metalink")]
    return section.startswith("[") and any(mark in url for mark in marks for url in urls)


def _commented(section: str) -> str:
    lines = section.splitlines(keepends=True)
    return "".join(line if not line.strip() or line.startswith("#") else f"# {line}" for line in lines)


def no_repository(repo: Repository, facts: HostFacts) -> list[Step]:
    """Return the step that removes our file of a repository that is no longer used.

    A repository that is not reachable would make dnf refuse everything.
    """
    path = repository_path(repo)
    if path not in facts.sources:
        return []
    return [Shell(f"remove {path}, which is no longer used", sh("rm -f {} {}", path, key_path(repo)))]


OURS = "# by gpurack: the inventory's proxy\n"
THEIRS = "# set aside by gpurack: "


def proxy(proxy: Proxy | None, facts: HostFacts) -> list[Step]:
    """Return the step that sets the proxy in the main section of dnf's own configuration.

    dnf has no drop-ins before dnf 5, and exceptions only in the sections of repositories. The admin's own line is
    commented out meanwhile.
    """
    path = paths.YUM_CONF if facts.manager.generation == "yum3" else paths.DNF_CONF
    there = facts.files.get(path)
    text = there.text if there else ""
    wanted = re.sub(rf"{re.escape(OURS)}proxy=.*\n", "", text).replace(THEIRS, "")
    if proxy is not None:
        aside = re.sub(r"(?m)^(?=proxy\s*=)", THEIRS, wanted)
        head, found, rest = aside.partition("[main]\n") if "[main]\n" in aside else (aside, "[main]\n", "")
        wanted = f"{head}{found}{OURS}proxy={proxy.url}\n{rest}"
    if wanted == text:
        return []
    why = f"proxy {proxy.url} for packages" if proxy else "remove the proxy for packages"
    return [
        WriteFile(why, path, wanted, there.mode if there else "644")
    ]  # the mode stays, because the file may contain passwords


def finish_interrupted(facts: HostFacts) -> list[Step]:
    """Return the step that repairs packages of an interrupted rpm transaction.

    Such packages are installed twice, or their scripts have not run.
    """
    torn = [name for name, package in facts.packages.items() if not package.whole and re.fullmatch(NAME, name)]
    if not torn and paths.RPM_TRANSACTION not in facts.files:
        return []
    commands = [sh("rm -f {}", paths.RPM_TRANSACTION)]
    if torn:
        # Of a package that is installed twice, the newer installation is the wanted one.
        older = sh(
            "rpm -qa --qf '%{NAME}.%{ARCH}\\n' {} | sort | uniq -d | while read -r twice; do "
            "rpm -q --qf '%{INSTALLTIME} %{NEVRA}\\n' \"$twice\" | sort -n | sed '$d' | cut -d ' ' -f 2; done "
            "| xargs -r rpm -e --nodeps",
            torn,
        )
        commands = [older, transaction(facts, "reinstall", torn, torn)]
    return [
        Shell("finish an interrupted package installation", _together(commands), slow=True, explain=_explain(facts))
    ]


def prerequisites(facts: HostFacts) -> list[str]:
    """Return the packages of the distribution that we need and the host lacks."""
    missing = [tool for tool in TOOLS if tool not in facts.tools]
    return [*(["ca-certificates"] if "ca-certificates" not in facts.packages else []), *missing]


def spelled(name: str, pin: Pin | None) -> str:
    """Return a package as dnf and yum accept it.

    >>> spelled("docker-ce", Pin("28.5.2")), spelled("docker-ce", Pin("3:28.5.2-1.el9", exact=True))
    ('docker-ce-28.5.2-*', 'docker-ce-3:28.5.2-1.el9')
    """
    if pin is None:
        return name
    return f"{name}-{pin.version}" if pin.exact else f"{name}-{pin.version}-*"


def install(
    reason: str,
    packages: Mapping[str, Pin | None],
    facts: HostFacts,
    hold: Sequence[str] = (),
    before: Sequence[Sh] = (),
) -> Step:
    """Return the step that installs all packages in one transaction, at their versions, and then holds."""
    commands: list[Sh] = []
    # So that new releases in our repositories are found. Other repositories are not refreshed for that.
    if any(path.startswith(f"{paths.YUM_REPOS}/gpurack-") for path in facts.sources):
        commands.append(
            sh("{} -q --disablerepo='*' --enablerepo='gpurack-*' clean expire-cache", facts.manager.program)
        )
    commands += [*before, *_unlock([name for name, pin in packages.items() if pin], facts)]
    down = [spelled(name, pin) for name, pin in packages.items() if pin and _is_lower(pin, name, facts)]
    if down and facts.manager.generation == "yum3":
        commands.append(transaction(facts, "downgrade", down, list(packages)))
    words = [spelled(name, pin) for name, pin in packages.items()]
    if facts.manager.generation == "yum3":
        words.insert(0, "--setopt=skip_missing_names_on_install=False")  # else it installs the rest and succeeds
    commands.append(transaction(facts, "install", [*words, *(_lacking(facts) if hold else [])], list(packages)))
    if hold:
        commands.append(_lock(hold, facts))
    return Shell(reason, _together(commands), slow=True, explain=_explain(facts))


def hold(names: Sequence[str], facts: HostFacts) -> Step:
    """Return the step that prevents upgrades of packages by others."""
    lacking = _lacking(facts)
    first = [transaction(facts, "install", lacking, lacking)] if lacking else _unlock(names, facts)
    command = _together([*first, _lock(names, facts)])
    return Shell(f"hold {', '.join(names)}", command, slow=bool(lacking), explain=_explain(facts))


def unhold(names: Sequence[str], facts: HostFacts) -> Step:
    """Return the step that releases packages, if the inventory no longer pins a version."""
    return Shell(f"no longer hold {', '.join(names)}", _together(_unlock(names, facts)))


def available(names: Sequence[str], facts: HostFacts) -> Sh:
    """See `Packages`. Versions that versionlock holds back are included."""
    dnf5 = facts.manager.generation == "dnf5"
    return sh(
        "{} -q {} --refresh repoquery --showduplicates --qf '%{name} %{epoch}:%{version}-%{release}\\n' {} "
        "| sed 's/ 0:/ /' | sort -Vru",
        facts.manager.program,
        sh("--setopt=disable_excludes='*'") if dnf5 else sh("--disableplugin=versionlock"),
        names,
    )


def remove(names: Sequence[str], facts: HostFacts) -> Step:
    """Return the step that removes packages, and none of their dependencies.

    Configuration and /var/lib/docker stay.
    """
    words = ["--disablerepo=*", "--setopt=clean_requirements_on_remove=False", *names]
    return Shell(
        f"remove {', '.join(names)}",
        _together([*_unlock(names, facts), transaction(facts, "remove", words, [])]),
        slow=True,
        explain=_explain(facts),
    )


def transaction(facts: HostFacts, verb: str, words: Sequence[str], names: Sequence[str]) -> Sh:
    """Return a command of dnf or yum that is repeated while another process holds rpm's lock.

    It is also repeated if it failed after it had waited for another dnf, because that deletes packages which both
    downloaded. If it is killed, a note with the time of its start and `names` stays. If it fails otherwise, it prints
    which versions of `names` exist and where ("there: NAME VERSION@REPOSITORY …").
    """
    listed = sh(
        "{} -q -C list --showduplicates {} 2>/dev/null | awk '/^Available/ { there = 1; next } "
        'there && NF > 2 { sub(/\\.[^.]*$/, "", $1); all[$1] = all[$1] " " $2 "@" $3 } '
        'END { for (name in all) print "there: " name all[name] }\'',
        facts.manager.program,
        names,
    )
    return sh(
        'seen=$(mktemp -d) && mkdir -p {state} && echo "$(date +%s)" {names} > {note} && tries=0 && '
        "until { {program} -y {verb} {words}; echo $? > $seen/code; } 2>&1 | "
        "tee $seen/out; grep -qx 0 $seen/code; do "
        "if grep -qe 'transaction lock' -e 'Waiting for process with pid' $seen/out && [ $tries -lt 120 ]; then "
        'tries=$((tries + 1)); echo "rpm is busy with another installation; waiting"; sleep 5; continue; fi; '
        "[ $(cat $seen/code) -ge 128 ] || rm -f {note}; rm -rf $seen; "
        "{listed}; exit 1; done; rm -rf $seen {note}",
        state=paths.STATE,
        names=names,
        note=paths.RPM_TRANSACTION,
        program=facts.manager.program,
        verb=verb,
        words=words,
        listed=listed if names else sh(":"),
    )


def _explain(facts: HostFacts) -> Callable[[Sequence[str]], Problem | None]:
    return partial(explain, program=facts.manager.program)


def _together(commands: Sequence[Sh]) -> Sh:
    return sh("export LC_ALL=C; {}", grouped(commands))


def _versionlock(verb: str, names: Sequence[str], facts: HostFacts) -> Sh:
    return sh("{} -q --disablerepo='*' versionlock {} {}", facts.manager.program, verb, names)


def _lock(names: Sequence[str], facts: HostFacts) -> Sh:
    return _versionlock("add", names, facts)


def _unlock(names: Sequence[str], facts: HostFacts) -> list[Sh]:
    """Return the command that releases holds. dnf fails for names without a hold, so its exit code is ignored."""
    if not names or _lacking(facts):
        return []
    return [sh("{} >/dev/null 2>&1 || :", _versionlock("delete", names, facts))]


def _lacking(facts: HostFacts) -> list[str]:
    """Return the package that contains `versionlock`, if it is not installed."""
    plugin = VERSIONLOCK.get(facts.manager.generation)
    return [plugin] if plugin and plugin not in facts.packages else []


def _is_lower(pin: Pin, name: str, facts: HostFacts) -> bool:
    """Is a pin older than what is installed? By the numbers of upstream's version, then by the rest."""
    if name not in facts.packages:
        return False
    there = facts.packages[name].version
    asked, found = (_numbers(text) for text in (upstream(pin.version), upstream(there)))
    return asked < found or (asked == found and pin.exact and _numbers(pin.version) < _numbers(there))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
