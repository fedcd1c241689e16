"""Steps that packages of the Red Hat family need: by dnf 4 (also where only its link yum is), dnf 5 or yum 3. Pure.

What these do was seen on dnf 4.23 and dnf5 5.4; of yum 3 the manual was read. `install NAME-VERSION-*` goes down as
well as up, but not with yum 3, which has `downgrade`. What versionlock holds cannot be installed at another version, so
a hold is lifted before and set again after; `versionlock add` takes the installed version and needs no repository. dnf
waits for another dnf, but not for rpm itself.
pyinfra's own dnf.packages ignores a pinned version silently (pyinfra#1910), dnf.repo never updates a file, dnf.key is
never idempotent: none of them is used here.
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
"""The package that brings `versionlock`; dnf 5 has it built in."""
TOOLS = ("curl", "python3")
"""Needed by their programs, not by their packages: curl-minimal is as good, and cannot live beside curl."""

NO_PROXY = "proxy=_none_"
"""In a repository's section: not by the proxy of the main one (dnf.conf(5), dnf5.conf(5), yum.conf(5))."""
CACHES = (sh("/var/cache/dnf"), sh("/var/cache/libdnf5"), sh("/var/cache/yum/*/*"), sh("/var/lib/yum/repos/*/*"))


def repository_path(repo: Repository) -> str:
    """Its .repo file."""
    return f"{paths.YUM_REPOS}/gpurack-{repo.name}.repo"


def key_path(repo: Repository) -> str:
    """Where its key lies."""
    return f"{paths.RPM_KEYS}/gpurack-{repo.name}.asc"


def source(repo: Repository) -> str:
    """The content of its file. repo.place: path, then options of a .repo file."""
    path, *options = repo.place.split()
    options += [NO_PROXY] if repo.direct else []
    return render(
        "templates/rpm.repo.j2", name=repo.name, url=f"{repo.url}/{path}", options=options, key=key_path(repo)
    )


def repository(repo: Repository, facts: HostFacts) -> list[Step]:
    """What makes `repo` the host's only file for this repository."""
    key = facts.files.get(key_path(repo))
    steps = written(f"key of the {repo.name} repository", key_path(repo), repo.key, facts)
    if key and key.text != repo.key:
        # dnf and yum go on trusting a key once they have taken it, and what they fetched by it
        caches = [sh("{}/gpurack-{}*", folder, repo.name) for folder in CACHES]
        steps.append(Shell(f"forget what the old key of {repo.name} vouched for", sh("rm -rf {}", caches)))
    return steps + only_file(repo, repository_path(repo), source(repo), facts, without, alive)


def without(text: str, marks: Iterable[str]) -> str:
    """A .repo file with every section that names one of these repositories commented out.

    >>> without("[a]\\nbaseurl=https://a.example\\n[b]\\nbaseurl=https://b.example\\n", ("b.example",))
    '[a]\\nbaseurl=https://a.example\\n# [b]\\n# baseurl=https://b.example\\n'
    """
    marks = tuple(marks)
    sections = re.split(r"(?m)^(?=\[)", text)
    return "".join(_commented(section) if _names(section, marks) else section for section in sections)


def alive(text: str) -> bool:
    """Is there any section in a .repo file that is not a comment?"""
    return re.search(r"(?m)^\s*\[", text) is not None


def _names(section: str, marks: Iterable[str]) -> bool:
    values = [line.partition("=") for line in section.splitlines() if not line.lstrip().startswith(("#", ";"))]
    urls = [value for key, _, value in values if key.strip() in ("baseurl", "mirrorlist", "metalink")]
    return section.startswith("[") and any(mark in url for mark in marks for url in urls)


def _commented(section: str) -> str:
    lines = section.splitlines(keepends=True)
    return "".join(line if not line.strip() or line.startswith("#") else f"# {line}" for line in lines)


def no_repository(repo: Repository, facts: HostFacts) -> list[Step]:
    """Our own file of a repository that is not used any more goes: one that is down makes dnf refuse everything."""
    path = repository_path(repo)
    if path not in facts.sources:
        return []
    return [Shell(f"remove {path}, which is no longer used", sh("rm -f {} {}", path, key_path(repo)))]


OURS = "# by gpurack: the inventory's proxy\n"
THEIRS = "# set aside by gpurack: "


def proxy(proxy: Proxy | None, facts: HostFacts) -> list[Step]:
    """A line in the main section of dnf's own configuration, which has no drop-ins before dnf 5, and exceptions only in
    the repositories' own sections. A line of the admin's stands aside meanwhile."""
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
    return [WriteFile(why, path, wanted, there.mode if there else "644")]  # it may hold the admin's passwords


def finish_interrupted(facts: HostFacts) -> list[Step]:
    """An rpm transaction that was cut short leaves packages twice, or without what their scripts should have done."""
    torn = [name for name, package in facts.packages.items() if not package.whole and re.fullmatch(NAME, name)]
    if not torn and paths.RPM_TRANSACTION not in facts.files:
        return []
    commands = [sh("rm -f {}", paths.RPM_TRANSACTION)]
    if torn:
        # Of a package that is there twice the one that came later is what was wanted.
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
    """What we need from the distribution and the host lacks."""
    missing = [tool for tool in TOOLS if tool not in facts.tools]
    return [*(["ca-certificates"] if "ca-certificates" not in facts.packages else []), *missing]


def spelled(name: str, pin: Pin | None) -> str:
    """A package as dnf and yum take it.

    >>> spelled("docker-ce", Pin("28.5.2")), spelled("docker-ce", Pin("3:28.5.2-1.el9", exact=True))
    ('docker-ce-28.5.2-*', 'docker-ce-3:28.5.2-1.el9')
    """
    if pin is None:
        return name
    return f"{name}-{pin.version}" if pin.exact else f"{name}-{pin.version}-*"


def install(reason: str, packages: Mapping[str, Pin | None], facts: HostFacts, hold: Sequence[str] = ()) -> Step:
    """One transaction for all `packages`, at their versions, then holds."""
    commands: list[Sh] = []
    # What was released since the last look at our repositories is to be found; others' are not asked for that.
    if any(path.startswith(f"{paths.YUM_REPOS}/gpurack-") for path in facts.sources):
        commands.append(
            sh("{} -q --disablerepo='*' --enablerepo='gpurack-*' clean expire-cache", facts.manager.program)
        )
    commands += _unlock([name for name, pin in packages.items() if pin], facts)
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
    """Keep packages from being upgraded by others."""
    lacking = _lacking(facts)
    first = [transaction(facts, "install", lacking, lacking)] if lacking else _unlock(names, facts)
    command = _together([*first, _lock(names, facts)])
    return Shell(f"hold {', '.join(names)}", command, slow=bool(lacking), explain=_explain(facts))


def unhold(names: Sequence[str], facts: HostFacts) -> Step:
    """The opposite, where the inventory has no version any more."""
    return Shell(f"no longer hold {', '.join(names)}", _together(_unlock(names, facts)))


def available(names: Sequence[str], facts: HostFacts) -> Sh:
    """See `Packages`. What versionlock holds back counts, too."""
    dnf5 = facts.manager.generation == "dnf5"
    return sh(
        "{} -q {} --refresh repoquery --showduplicates --qf '%{name} %{epoch}:%{version}-%{release}\\n' {} "
        "| sed 's/ 0:/ /' | sort -Vru",
        facts.manager.program,
        sh("--setopt=disable_excludes='*'") if dnf5 else sh("--disableplugin=versionlock"),
        names,
    )


def remove(names: Sequence[str], facts: HostFacts) -> Step:
    """Packages away, and nothing else that came with them; configuration and /var/lib/docker stay."""
    words = ["--disablerepo=*", "--setopt=clean_requirements_on_remove=False", *names]
    return Shell(
        f"remove {', '.join(names)}",
        _together([*_unlock(names, facts), transaction(facts, "remove", words, [])]),
        slow=True,
        explain=_explain(facts),
    )


def transaction(facts: HostFacts, verb: str, words: Sequence[str], names: Sequence[str]) -> Sh:
    """dnf or yum, again as long as rpm's lock is why it fails, or it failed after it had waited for another dnf, which
    throws away the packages that both had downloaded. A note of when it began and of `names` stays where it is killed.
    When it fails otherwise: which versions there are of `names` and where ("there: NAME VERSION@REPOSITORY …").
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
    """Of names that no lock has, dnf says so and fails."""
    if not names or _lacking(facts):
        return []
    return [sh("{} >/dev/null 2>&1 || :", _versionlock("delete", names, facts))]


def _lacking(facts: HostFacts) -> list[str]:
    """The package that brings `versionlock`, where it is not there."""
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
