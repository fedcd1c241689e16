"""Parse the text of the snapshot into HostFacts. Pure.

Each section is parsed by the function with its name, in sections.py, system.py, docker.py, weights.py, nvidia.py,
amd.py and rpm.py. What a line looks like is in the function's docstring.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gpurack import paths
from gpurack.facts import amd, nvidia, rpm
from gpurack.facts.docker import (
    NAME,
    containers,
    counter,
    cuda_log,
    digests,
    docker,
    images,
    probe,
    upstreams,
    version_of,
    with_trusted_label,
)
from gpurack.facts.lines import Section, Sections, each, fields, pair, pairs, parse_time, word
from gpurack.facts.model import HostFacts
from gpurack.facts.parts import Unit, User
from gpurack.facts.record import HostRecord, TooNew, services
from gpurack.facts.record import read as record_of
from gpurack.facts.sections import MARK, own_sections, split, unpacked
from gpurack.facts.system import (
    PATH,
    addresses,
    carried,
    files_of,
    kernel,
    listeners,
    name_and_address,
    os_release,
    packages,
    root_files,
    secret,
    units,
    users,
    with_zone,
)
from gpurack.facts.weights import hashes, seen_weights

CUT = "The snapshot of the host is incomplete. Possible causes: its /tmp is full (df -h /tmp), or the connection broke."

TOO_LARGE = (
    f"{paths.RECORD} is larger than 4 MiB, so gpurack cannot tell which containers are its own. Inspect the file, and "
    "restore an older one from a backup."
)


def parse(lines: Sequence[str], raised: bool = False) -> HostFacts:
    """Parse the script's output. Never raises; an incomplete snapshot has `trouble` set.

    raised: was sudo used?
    """
    mark = next((line[len(MARK) :] for line in lines if re.fullmatch(rf"{MARK}[0-9a-f]{{32}}", line)), None)
    sections = split(unpacked(lines, mark), mark) if mark else {}
    if "end" not in sections:
        return HostFacts.not_inspected(CUT)
    get: Callable[[str], Section] = lambda name: sections.get(name, Section())  # noqa: E731
    late = dict(each(get("late"), lambda line: pair(r"([A-Za-z0-9_. $-]+|weights /.*)\|([^|]+)", line)))
    if "system" in late:
        return HostFacts.not_inspected(f"The snapshot of the host {late['system']}. Check what hangs there.")
    mounts = each(get("mounts"), lambda line: pair(r"(/[^|]*)\|(/.*)", line))
    machine = get("machine")
    seen = root_files(sections)
    try:
        record = (record_of(seen[paths.RECORD].text) if paths.RECORD in seen else None) or HostRecord(None)
    except TooNew as error:
        return HostFacts.not_inspected(str(error))
    if paths.RECORD in get("oversized"):
        return HostFacts.not_inspected(TOO_LARGE)
    driver = nvidia.driver(sections)
    # Beside NVIDIA GPUs, an AMD one is the processor's integrated graphics.
    amd_lines = [] if driver.kernel or driver.pci else get("amd")
    accounts = users(sections)
    own: dict[str, Sections] = {}
    for name in accounts:
        said = own_sections(get(f"said {name}"))
        if "end" in said:
            own[name] = said
        elif f"user {name}" not in late:
            late[f"user {name}"] = "printed more than 1 MB, or was cut off"
    daemons: dict[str, Sections] = {"": sections, **own}
    found = seen_weights(sections)
    sizes = {path: size for path, (size, _) in found.kinds.items()}
    late = {**dict.fromkeys((f"weights {path}" for path in found.broken), "was cut off"), **late}
    accounts |= {name: with_own(accounts[name], said, sizes) for name, said in own.items()}
    facts = HostFacts(
        raised=raised,
        os=os_release(get("os")),
        busy=word(machine, "busy"),
        changing=frozenset(each(machine, lambda line: line.split()[1] if line.startswith("changing ") else "")) - {""},
        now=with_zone(parse_time(word(machine, "now"))),
        arch=word(machine, "arch"),
        memory=kib // 1024 if (kib := nvidia.number(word(machine, "memory"))) else None,
        init=word(machine, "init"),
        machine_id=word(machine, "id"),
        address=next(iter(addresses(word(machine, "address"))), ""),
        addresses=addresses(word(machine, "addresses")),
        tools=frozenset(each(get("machine"), lambda line: line.split()[1] if line.startswith("tool ") else "")) - {""},
        manager=rpm.manager(word(machine, "manager")),
        packages={**packages(get("packages")), **rpm.packages(get("rpms"), seen)},
        carried=carried(get("carried")),
        audit=sum(each(get("audit"), lambda line: int(fields(r"(\d{1,9})", line)[0]))),
        files={**{path: file for name, said in own.items() for path, file in files_of(accounts[name], said)}, **seen},
        units=units(get("units")),
        docker_flags=word(get("units"), "flags"),
        secrets=dict(each(get("secrets"), secret)),
        weights=sizes,
        irregular={path: what for path, (size, what) in found.kinds.items() if size is None and what != "missing"},
        owned=found.owned,
        exposed=frozenset(each(get("exposed"), lambda line: fields(rf"({PATH})", line)[0])),
        labels=found.labels,
        stamps=found.stamps,
        headers=found.headers,
        commits=dict(each([line for line in get("commits") if line[:1] != "|"], commit)),
        hashes=hashes(get("hashes"), found.unchanged),
        listeners=tuple(listeners(get("ports"), get("owners"))),
        driver=driver,
        gpus=tuple(nvidia.gpus(get("gpus"), get("remapped"), get("mig")) or amd.gpus(amd_lines)),
        gpu_processes=tuple(nvidia.gpu_processes(get("processes")) or amd.processes(amd_lines)),
        kfd_gid=amd.number(word(amd_lines, "kfd")),
        cdi=frozenset(each(get("cdi"), lambda line: fields(r"([A-Za-z0-9._/=:-]+)", line)[0])),
        docker=docker(get("docker")),
        compose=version_of(get("compose")),
        containers=tuple(
            with_trusted_label(found, record, services(seen.get(paths.compose_file(user)))) if user else found
            for user, said in daemons.items()
            for found in containers(said, user)
        ),
        images=images(get("images")),
        digests=digests(get("digests")),
        users=accounts,
        kernel=kernel(get("rootless")),
        counters={
            (user, name): counter(lines)
            for user, said in daemons.items()
            for name, lines in sections_of(said, "counter")
        },
        probes={
            (user, name): probe(lines) for user, said in daemons.items() for name, lines in sections_of(said, "probe")
        },
        cuda_logs={
            (user, name): cuda_log(lines) for user, said in daemons.items() for name, lines in sections_of(said, "cuda")
        },
        names={name: found for found, name in each(get("names"), name_and_address) if found},
        upstreams={
            (user, *key): why
            for user, said in daemons.items()
            for key, why in upstreams(said.get("upstreams", Section())).items()
        },
        accounts=frozenset(
            (user, volume)
            for user, said in daemons.items()
            for volume in each(said.get("accounts", Section()), lambda line: fields(rf"({NAME})", line)[0])
        ),
        late=late,
        mounts={path: mount for mount, path in mounts if f"weights {path}" in late},
        **record.facts,
    )
    unread = [sentence for user, said in daemons.items() if (sentence := not_understood(user, said))]
    return replace(facts, unread=tuple(unread))


def not_understood(user: str, sections: Sections) -> str:
    """Return `ignored 2 lines from the host that could not be parsed (ports 1, files 1).`; "" if all could."""
    wrong = {name: lines.wrong for name, lines in sections.items() if lines.wrong}
    if not wrong:
        return ""
    source = f"the programs of {user}" if user else "the host"
    where = ", ".join(f"{name} {count}" for name, count in wrong.items())
    return f"ignored {count_lines(sum(wrong.values()))} from {source} that could not be parsed ({where})."


def count_lines(lines: int) -> str:
    """Return `1 line` or `2 lines`.

    >>> count_lines(1), count_lines(2)
    ('1 line', '2 lines')
    """
    return f"{lines} line{'' if lines == 1 else 's'}"


def sections_of(sections: Sections, kind: str) -> list[tuple[str, Section]]:
    """Return (model, lines) of the sections `KIND MODEL` that are not empty."""
    named = [(name.partition(" "), lines) for name, lines in sections.items()]
    return [(rest, lines) for (head, _, rest), lines in named if head == kind and re.fullmatch(NAME, rest) and lines]


def with_own(user: User, said: Sections, sizes: Mapping[str, int | None]) -> User:
    """Add the facts that the user's own programs printed. sizes: path of weights → bytes, None if missing."""
    lines = said.get("own", Section())
    rest = {head: {rest for other, rest in pairs(lines) if other == head} for head in ("sees", "unreadable")}
    unit = word(lines, "unit")
    return replace(
        user,
        manager="LoadState=" in unit,
        unit=units([f"docker.service {unit}"]).get("docker.service", Unit()),
        sees=frozenset(rest["sees"] & set(paths.CDI_FOLDERS)),
        unreadable=frozenset(path for path in rest["unreadable"] if sizes.get(path) is not None),
        docker=docker(said.get("docker", Section())),
        images=images(said.get("images", Section())),
        digests=digests(said.get("digests", Section())),
    )


def commit(line: str) -> tuple[str, str]:
    """Parse `commit|path`.

    >>> commit("27dcfa74d334|/data/w")
    ('/data/w', '27dcfa74d334')
    """
    found, path = fields(r"([0-9a-f]{7,64})\|(/.*)", line)
    return path, found
