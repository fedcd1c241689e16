"""Parse the text of the snapshot into HostFacts. Pure.

Each section is parsed by the function with its name. What a line looks like is in the function's docstring.
"""

import base64
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

from gpurack import paths
from gpurack.facts import amd, nvidia, rpm
from gpurack.facts.lines import ID, WRONG, Section, Sections, T, each, fields, pair, pairs, parse_time, word
from gpurack.facts.model import (
    USER_FILES,
    Carried,
    Container,
    File,
    Header,
    HostFacts,
    Kernel,
    Listener,
    Os,
    Package,
    Probe,
    Unit,
    User,
)
from gpurack.facts.record import HostRecord, TooNew, keys, services
from gpurack.facts.record import read as record_of
from gpurack.host_data import json_from_host
from gpurack.resources import SHIPPED, read_text
from gpurack.spec.weights import belongs

MARK = "@@ mark "
"""The beginning of the first line of snapshot.sh."""
PATH = r"/[A-Za-z0-9._/@+:-]+"
"""A path that a pattern of snapshot.sh found. gpurack itself uses no other characters."""
IMAGE = rf"sha256:{ID}"
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
VERSION = r"[A-Za-z0-9.+:~^_()-]*"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
"""What `readable` in snapshot.sh removes where gzip is missing."""
GZIP = b"\x1f\x8b"
"""The first bytes of everything that gzip packs. Paths begin otherwise."""
UNPACKED_LIMIT = 64 << 20
"""Bytes that packed output may have when it is unpacked, as many as a command may print (pyinfra_patches.py)."""
CUT = "The snapshot of the host is incomplete. Possible causes: its /tmp is full (df -h /tmp), or the connection broke."


def parse(lines: Sequence[str], raised: bool = False) -> HostFacts:
    """Parse the script's output. Never raises; an incomplete snapshot has `trouble` set.

    raised: was sudo used?
    """
    mark = next((line[len(MARK) :] for line in lines if re.fullmatch(rf"{MARK}[0-9a-f]{{32}}", line)), None)
    sections = split(unpacked(lines, mark), mark) if mark else {}
    if "end" not in sections:
        return HostFacts(trouble=CUT)
    get: Callable[[str], Section] = lambda name: sections.get(name, Section())  # noqa: E731
    late = dict(each(get("late"), lambda line: pair(r"([A-Za-z0-9_. $-]+|weights /.*)\|([^|]+)", line)))
    if "system" in late:
        return HostFacts(trouble=f"The snapshot of the host {late['system']}. Check what hangs there.")
    mounts = each(get("mounts"), lambda line: pair(r"(/[^|]*)\|(/.*)", line))
    machine = get("machine")
    seen = root_files(sections)
    try:
        record = (record_of(seen[paths.RECORD].text) if paths.RECORD in seen else None) or HostRecord(None)
    except TooNew as error:
        return HostFacts(trouble=str(error))
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


def own_sections(lines: Sequence[str]) -> Sections:
    """Return the sections that a user's own programs printed; {} if they printed nothing valid.

    They arrive as one line of base64 (snapshot_own in files/snapshot_docker.sh), so that no text in them can open a
    section of root's.
    """
    try:
        return split(decoded("".join(lines)).decode(errors="replace").split("\n"))
    except WRONG:
        return {}


def files_of(user: User, said: Sections) -> list[tuple[str, File]]:
    """Return those of a user's files that gpurack requests, in the home and in the folder of the user's sockets."""
    known = {*(f"{user.home}/{file}" for file in USER_FILES), f"{user.runtime}/{paths.USER_RESTART_MARKER}"}
    return [(path, file) for path, file in files(said.get("files", Section()), r"/.*").items() if path in known]


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


def secret(line: str) -> tuple[str, tuple[str, int]]:
    """Parse `path mode uid`."""
    path, mode, uid = fields(rf"({PATH}) ([0-7]{{3,4}}) (\d{{1,10}})", line)
    return path, (mode, int(uid))


def commit(line: str) -> tuple[str, str]:
    """Parse `commit|path`.

    >>> commit("27dcfa74d334|/data/w")
    ('/data/w', '27dcfa74d334')
    """
    found, path = fields(r"([0-9a-f]{7,64})\|(/.*)", line)
    return path, found


def name_and_address(line: str) -> tuple[str, str]:
    """Parse `address|name`. The result is (address, name), with address "" if the name is unknown.

    >>> name_and_address("10.0.0.7|gpu2.lab"), name_and_address("|gpu3.lab")
    (('10.0.0.7', 'gpu2.lab'), ('', 'gpu3.lab'))
    """
    found, name = fields(r"([0-9.]*)\|([A-Za-z0-9._-]+)", line)
    return address(found), name


def addresses(text: str) -> tuple[str, ...]:
    """Return the IP addresses in a text, without link-local, loopback and unspecified ones.

    >>> addresses("10.0.0.7 fe80::1 127.0.0.1")
    ('10.0.0.7',)
    """
    found = []
    for one in text.split():
        try:
            ip = ip_address(one)
        except ValueError:
            continue
        found += [] if ip.is_link_local or ip.is_loopback or ip.is_unspecified else [str(ip)]
    return tuple(dict.fromkeys(found))


def address(text: str) -> str:
    """Return a text that is an IP address, normalized; "" for anything else.

    >>> address("2001:DB8::1"), address("gpu1")
    ('2001:db8::1', '')
    """
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def version_of(lines: Sequence[str]) -> str:
    """Parse `v2.40.3` in the first line; "" for anything else.

    >>> version_of(["v2.40.3"]), version_of(["unknown command"])
    ('2.40.3', '')
    """
    found = each(lines[:1], lambda line: fields(r"v?([0-9][A-Za-z0-9.+~-]*)", line)[0])
    return found[0] if found else ""


def upstreams(lines: Sequence[str]) -> dict[tuple[str, int], str]:
    """Parse `service|number|HTTP status|error of curl` into (service, number) → why it fails, "" if it answers.

    >>> upstreams(["gateway|0|200|", "gateway|1|000|curl: (7) Failed to connect: Connection refused"])
    {('gateway', 0): '', ('gateway', 1): 'Connection refused'}
    """
    found = {}
    for service, number, status, words in each(
        lines, lambda line: fields(rf"({NAME})\|(\d{{1,4}})\|(\d{{3}})\|(.*)", line)
    ):
        said = words.strip().rpartition(": ")[2].removeprefix("curl: ")  # the part before it repeats the address
        why = {"000": said or "no answer", "401": "refuses the key", "503": "is loading"}.get(status, f"HTTP {status}")
        found[service, int(number)] = "" if status == "200" else why
    return found


def split(lines: Sequence[str], mark: str = "") -> Sections:
    """Split lines by their headings, "@@MARK name". Empty lines are dropped.

    mark: random for each snapshot, so that no quoted text can begin a section.
    """
    sections: Sections = {}
    current = Section()
    for line in lines:
        if line.startswith(f"@@{mark} "):
            current = sections.setdefault(line[3 + len(mark) :].strip(), Section())
        elif line.strip():
            current.append(line)
    return sections


def unpacked(lines: Sequence[str], mark: str) -> Sequence[str]:
    """Return the output as if the host had no gzip; [] if it is cut off, or unpacks to more than a host may print."""
    heading = f"@@{mark} gzip"
    if heading not in lines:
        return lines
    try:
        text = unzipped(decoded("".join(lines[lines.index(heading) + 1 :])))
    except ValueError:
        return []
    return CONTROL.sub("", text.decode(errors="ignore")).split("\n")


def unzipped(packed: bytes) -> bytes:
    """Unpack gzip. Raises ValueError for anything else, and if it is cut off or longer than UNPACKED_LIMIT."""
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(packed, UNPACKED_LIMIT)
    except zlib.error as error:
        raise ValueError(*error.args) from None
    if not stream.eof:
        raise ValueError("cut off, or too long")
    return plain


def decoded(text: str) -> bytes:
    """Decode base64; b"" for an empty text."""
    return base64.b64decode(text.strip() or "")


def os_release(lines: list[str]) -> Os:
    """Parse os-release(5)."""
    values = {key: value.strip().strip("\"'") for key, _, value in (line.partition("=") for line in lines)}
    return Os(
        id=values.get("ID", ""),
        version=values.get("VERSION_ID", ""),
        codename=values.get("VERSION_CODENAME", ""),
        name=values.get("PRETTY_NAME", "an unknown system"),
    )


LISTS_ARE_OLD = 24 * 3600
"""Seconds after which a package manager's lists may lack what is in its repositories."""


def carried(lines: list[str]) -> dict[str, tuple[Carried, ...]]:
    """Parse `name version age repository` of each version.

    >>> carried(["docker-ce 3:28.5.2-1.el9 60 gpurack-docker-ce"])
    {'docker-ce': (Carried(version='3:28.5.2-1.el9', repository='gpurack-docker-ce', fresh=True),)}
    """
    form = rf"([a-z0-9][a-z0-9+.-]*) ({VERSION}) ([0-9]{{1,12}}) ([!-~]{{1,500}}(?: [!-~]{{1,500}})?)"
    found: dict[str, tuple[Carried, ...]] = {}
    for name, version, age, repository in each(lines, lambda line: fields(form, line)):
        found[name] = (*found.get(name, ()), Carried(version, repository, int(age) <= LISTS_ARE_OLD))
    return found


def packages(lines: Sequence[str]) -> dict[str, Package]:
    """Parse `ii |name|version` of dpkg-query.

    The first letter is the desired state (h: hold), the second the current one.
    """
    found = {}
    form = rf"([a-zA-Z]{{2}}.?)\|([a-z0-9][a-z0-9+.:-]*)\|({VERSION})"
    for status, name, version in each(lines, lambda line: fields(form, line)):
        if status[1] not in "nc":  # n: not installed; c: only its configuration is left
            found[name] = Package(version, held=status[0] == "h", whole=status[1:3].strip() == "i")
    return found


def files(lines: Sequence[str], path: str = PATH) -> dict[str, File]:
    """Parse `path mode uid gid base64`. path: the pattern that paths must match."""
    form = rf"({path}) ([0-7]{{3,4}}) (\d{{1,10}}) (\d{{1,10}}) ?([A-Za-z0-9+/]*=*)"

    def read(line: str) -> tuple[str, File]:
        name, mode, uid, gid, content = fields(form, line)
        return name, File(decoded(content), mode, int(uid), int(gid))

    return dict(each(lines, read))


def root_files(sections: Sections) -> dict[str, File]:
    """Parse the files that root read (snapshot_files in files/snapshot.sh).

    `known` has the paths with the content that gpurack itself brings, `differing` the others as `sha256 path`.
    """
    get: Callable[[str], Section] = lambda name: sections.get(name, Section())  # noqa: E731
    found = files(get("files"))
    texts = {
        path: read_text(SHIPPED[path]).encode()
        for path in each(get("known"), lambda line: fields(rf"({PATH})", line)[0])
        if path in SHIPPED
    }
    contents = texts_of(get("contents"))
    for digest, path in each(get("differing"), lambda line: pair(rf"({ID}) ({PATH})", line)):
        text = contents.get(path, b"")
        # grep ends the last line. A text with another digest is that of a file which was replaced meanwhile.
        right = [each for each in (text, text[:-1]) if sha256(each).hexdigest() == digest]
        if right or text:
            texts[path] = right[0] if right else text
    if "known" in sections:
        get("files").wrong += len(found.keys() - texts.keys())
    return {path: replace(file, content=texts.get(path, file.content)) for path, file in found.items()}


def texts_of(lines: Sequence[str]) -> dict[str, bytes]:
    r"""Parse base64 of `grep -HZ ''`, or of gzip of it: each line of a file after the file's path and a NUL.

    >>> texts_of([base64.b64encode(b"/etc/a\0one\n/etc/b\0\n/etc/a\0two\n").decode()])
    {'/etc/a': b'one\ntwo\n', '/etc/b': b'\n'}
    """
    found: dict[str, list[bytes]] = {}
    for packed in each(lines, decoded):
        text = unzipped(packed) if packed.startswith(GZIP) else packed
        for line in text.split(b"\n")[:-1]:
            path, _, rest = line.partition(b"\0")
            found.setdefault(path.decode(errors="replace"), []).append(rest)
    return {path: b"".join(b"%b\n" % line for line in every) for path, every in found.items()}


def units(lines: Sequence[str]) -> dict[str, Unit]:
    """Parse `name LoadState=… ActiveState=… UnitFileState=…`; systemctl prints the properties in any order."""
    found = {}
    for name, rest in pairs(lines):
        values = dict(item.partition("=")[::2] for item in rest.split())
        if "LoadState" in values:
            found[name] = Unit(values["LoadState"], values.get("ActiveState", ""), values.get("UnitFileState", ""))
    return found


def weights(lines: Sequence[str]) -> dict[str, tuple[int | None, str]]:
    """Parse `size type|path` and `- missing|path` into path → (bytes, type).

    The size of anything but a file or folder (FIFO, device) is None.
    """

    def read(line: str) -> tuple[str, tuple[int | None, str]]:
        size, kind, path = fields(r"(-|\d{1,18}) ([a-z ]*)\|(/.*)", line)
        right = size != "-" and kind in ("regular file", "regular empty file", "directory")
        return path, (int(size) if right else None, kind)

    return dict(each(lines, read))


@dataclass
class Weights:
    """What the snapshot says about weights, by path.

    unchanged: `size time path` of files whose sha256 is remembered, with their size and time now. broken: paths of
    which the inspection as a user was cut off.
    """

    kinds: dict[str, tuple[int | None, str]]
    owned: dict[str, frozenset[str]]
    labels: dict[str, str]
    stamps: dict[str, str]
    headers: dict[str, Header]
    unchanged: set[str]
    broken: list[str] = field(default_factory=list)


def seen_weights(sections: Sections) -> Weights:
    """Combine the weights that root inspected with those that users inspected (`inspected PATH`).

    A user's answer counts only for the path that it was asked about.
    """
    found = weights_in(sections)
    for section, lines in sections.items():
        kind, _, path = section.partition(" ")
        if kind == "inspected":
            own = own_sections(lines)
            said = weights_in(own)
            found.broken += [] if "end" in own else [path]
            found.kinds |= entry_of(path, said.kinds)
            found.owned[path] = found.owned.get(path, frozenset()) | said.owned.get(path, frozenset())
            found.labels |= entry_of(path, said.labels)
            found.stamps |= entry_of(path, said.stamps)
            found.headers |= entry_of(path, said.headers)
            found.unchanged |= {line for line in said.unchanged if belongs(line.split(" ", 2)[-1], path)}
    return found


def weights_in(sections: Sections) -> Weights:
    """Parse the sections that weights_of in snapshot_docker.sh printed."""
    get: Callable[[str], Section] = lambda name: sections.get(name, Section())  # noqa: E731
    stamped = stamps(get("stamps"))
    return Weights(
        weights(get("weights")),
        owned(get("owned")),
        labels(get("labels")),
        stamped,
        headers(get("headers"), stamped),
        set(get("stamped")),
    )


def entry_of(key: str, found: dict[str, T]) -> dict[str, T]:
    """Return the entry with this key alone; {} if there is none."""
    return {key: found[key]} if key in found else {}


def owned(lines: Sequence[str]) -> dict[str, frozenset[str]]:
    """Parse `type mode owner|group|path`, one line for each file, folder or link on the way that others can change.

    >>> owned(["d 775 root|lab|/data/w", "f 644 ada|ada|/data/w"])["/data/w"] == {"the group lab", "ada"}
    True
    """
    found: dict[str, set[str]] = {}
    for form, mode, owner, group, path in each(
        lines, lambda line: fields(r"([a-z]) ([0-7]{1,5}) ([^|]*)\|([^|]*)\|(/.*)", line)
    ):
        who = found.setdefault(path, set())
        who |= {owner} if owner not in ("root", "0") else set()
        if int(mode, 8) & 0o022 and form != "l":
            who.add("everybody" if int(mode, 8) & 0o002 else f"the group {group}")
    return {path: frozenset(who) for path, who in found.items()}


def stamps(lines: Sequence[str]) -> dict[str, str]:
    """Parse `stamp|path`."""
    return {path: stamp for stamp, path in each(lines, lambda line: pair(r"([0-9-]+)\|(/.*)", line))}


def labels(lines: Sequence[str]) -> dict[str, str]:
    """Parse `user:role:type:level|path` into path → type."""
    entries = [(path, label.split(":")) for label, _, path in (line.partition("|") for line in lines)]
    return {path: parts[2] for path, parts in entries if len(parts) > 2}


def headers(lines: list[str], stamps: Mapping[str, str]) -> dict[str, Header]:
    """Parse one JSON line for each path whose header was read. Invalid lines count as not read."""
    found = {}
    for line in lines:
        try:
            said = json_from_host(line)
            found[said["path"]] = header(said, stamps[said["path"]])
        except WRONG:
            continue
    return found


def hashes(remembered: Sequence[str], now: Collection[str]) -> dict[str, str]:
    """Return path → sha256 of files that have not changed since they were hashed.

    remembered: lines `size time sha256 path`, as files/hashes.py writes them. now: lines `size time path`.

    >>> hashes([f"7 1.5 {'0' * 64} /w/a"], {"7 1.5 /w/a"}) == {"/w/a": "0" * 64}
    True
    """
    found = each(remembered, lambda line: fields(rf"(\d+) ([0-9.]+) ({ID}) (/.*)", line))
    return {path: sha256 for size, time, sha256, path in found if f"{size} {time} {path}" in now}


def header(said: Mapping[str, Any], stamp: str) -> Header:
    """Build a Header from an answer of files/weights_header.py.

    Raises TypeError, ValueError or AttributeError if it has another form.
    """
    return Header(
        stamp=stamp,
        kind=str(said.get("kind", "")),
        tensors={str(dtype): bounded(size) for dtype, size in said.get("tensors", {}).items()},
        config=dict(said.get("config", {})),
        problem=str(said.get("problem", "")),
        seen=str(said.get("seen", "")),
    )


def bounded(size: Any) -> int:
    """Return a size in bytes. Raises ValueError or TypeError if it is not one that a file can have."""
    found = int(size)
    if not 0 <= found < 1 << 63:
        raise ValueError(size)
    return found


def listeners(lines: Sequence[str], owners: Sequence[str] = ()) -> list[Listener]:
    """Parse `ss -Hltne`. owners: lines `4711 PID USER NAME`, with the number of a socket.

    Fields of ss: state, queues, local address, peer, then options in any order, among them `ino:4711`.
    """
    form = r"LISTEN +\d+ +\d+ +(\S+):(\d{1,5}) +\S+(.*)"
    who: dict[str, str] = {}
    for number, pid, user, name in each(owners, lambda line: fields(r"(\d+) (\d+) (\S*) (.*)", line)):
        known = f", user {user}" if user else ""
        who.setdefault(number, f"{name} (pid {pid}{known})")

    def read(line: str) -> Listener:
        place, port, rest = fields(form, line)
        number = re.search(r" ino:(\d+) ", rest)
        return Listener(place.split("%")[0].strip("[]"), int(port), who.get(number[1], "") if number else "")

    return each(lines, read)


def with_zone(time: datetime | None) -> datetime | None:
    """Return a time with a zone; UTC if it has none."""
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time


INFO: Mapping[str, Callable[[Any], bool]] = {
    "ServerVersion": lambda value: isinstance(value, str) and bool(re.fullmatch(r"[0-9A-Za-z.+~-]{1,80}", value)),
    "NCPU": lambda value: type(value) is int and 0 < value < 1 << 20,
    "MemTotal": lambda value: type(value) is int and 0 < value < 1 << 60,
    "Swarm": lambda value: isinstance(value, dict) and isinstance(value.get("LocalNodeState"), str),
    "LiveRestoreEnabled": lambda value: isinstance(value, bool),
    "Runtimes": lambda value: isinstance(value, dict),
    "SecurityOptions": lambda value: is_text_list(value),
    "CDISpecDirs": lambda value: is_text_list(value),
    "DockerRootDir": lambda value: isinstance(value, str) and value.startswith("/"),
}
"""The keys of `docker info` that gpurack reads, with a check of the value."""


def is_text_list(value: Any) -> bool:
    """Is it a list of strings?"""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def info(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid values of `docker info` that gpurack reads."""
    return {key: said[key] for key, right in INFO.items() if key in said and right(said[key])}


def docker(lines: Sequence[str]) -> Mapping[str, Any]:
    """Parse `docker info`; {} if only the client answered."""

    found = each([line for line in lines[:1] if line.startswith("{")], lambda line: info(json_from_host(line)))
    if not found and lines and isinstance(lines, Section):
        lines.wrong = 1
    return found[0] if found and "ServerVersion" in found[0] else {}


def images(lines: Sequence[str]) -> dict[str, str]:
    """Parse `id|reference`, and `-|reference` for a missing image, into reference → id."""
    found = each(lines, lambda line: fields(rf"({IMAGE}|-)\|(\S+)", line))
    return {name: id_ for id_, name in found if id_ != "-"}


def digests(lines: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse `id|["repository@sha256:…"]`."""

    def read(line: str) -> tuple[str, tuple[str, ...]]:
        id_, said = fields(rf"({IMAGE})\|(.*)", line)
        return id_, tuple(name for name in json_from_host(said) or () if re.fullmatch(rf"[^\s@]+@{IMAGE}", name))

    return dict(each(lines, read))


def users(sections: Sections, sizes: Mapping[str, int | None] | None = None) -> dict[str, User]:
    """Parse root's facts about each user from the sections `user NAME`. Users without an account are absent."""
    found = {}
    for section, lines in sections.items():
        kind, _, name = section.partition(" ")
        if kind != "user":
            continue
        for uid, gid, home in each(
            [line[8:] for line in lines if line.startswith("account ")],
            lambda line: fields(r"(\d{1,10}) (\d{1,10}) (/[^\x00-\x1f]*)", line),
        )[:1]:
            mode, _, owner = word(lines, "folder").partition(" ")
            found[name] = User(
                uid=int(uid),
                gid=int(gid),
                home=home,
                linger=bool(word(lines, "linger")),
                folder=(mode, int(owner)) if re.fullmatch(r"\d{1,10}", owner) else None,
                acl=word(lines, "weights"),
            )
    return found


def kernel(lines: Sequence[str]) -> Kernel:
    """Parse the section `rootless`, one fact in each line."""
    said = pairs(lines)
    return Kernel(
        sysctls={name: value for name, _, value in (rest.partition(" ") for head, rest in said if head == "sysctl")},
        rootlesskit_profile=("apparmor", "yes") in said,
        subuids=tuple(rest for head, rest in said if head == "subuid"),
        subgids=tuple(rest for head, rest in said if head == "subgid"),
        uids=frozenset(nvidia.number(rest) or 0 for head, rest in said if head == "uid"),
        folders=frozenset(rest for head, rest in said if head == "folder"),
    )


def containers(sections: Sections, user: str) -> list[Container]:
    """Parse the containers of a user's daemon, or of the host's own ("")."""
    return each(sections.get("containers", Section()), lambda line: container(json_from_host(line), user))


def with_trusted_label(container: Container, record: HostRecord, services: Mapping[str, Any]) -> Container:
    """Return a user's container, with an empty definition if root does not know the one in its label.

    Otherwise a user's daemon could claim any GPU and port, and models of the host would yield to it. services: those of
    root's compose.yaml for that user. They decide if the record has no definition of this container.
    """
    label = container.labels.get(paths.MODEL_LABEL)
    if label is None:
        return container
    renamed = {member.old_id: member.name for one in record.replacing for member in one.members}
    name = renamed.get(container.id, container.name)
    entry = (record.containers or {}).get(container.user, {}).get(name)
    if entry and entry.definition:
        known = sha256(label.encode(errors="replace")).hexdigest() == entry.definition
    else:
        service = services.get(keys(services).get(name, ""))
        labels = service.get("labels") if isinstance(service, Mapping) else None
        known = isinstance(labels, Mapping) and str(labels.get(paths.MODEL_LABEL)).replace("$$", "$") == label
    return container if known else replace(container, labels={**container.labels, paths.MODEL_LABEL: ""})


def container(data: Any, user: str = "") -> Container:
    """Parse one line of the snapshot's `docker inspect --format`. Raises one of WRONG if it has another form."""
    state = data["state"]
    return Container(
        id=fields(f"({ID})", data["id"])[0],
        name=fields(f"/?({NAME})", data["name"])[0],
        image=fields(f"({IMAGE})", data["image"])[0],
        status=fields("([a-z]+)", state["Status"])[0],
        exit_code=checked_int(state["ExitCode"]),
        error=checked_text(state.get("Error")),
        started=checked_text(state.get("StartedAt")),
        restarts=checked_int(data["restarts"]),
        labels={
            checked_text(key): checked_text(value)
            for key, value in (data["labels"] or {}).items()
            if isinstance(value, str)
        },
        ports=tuple(published(data["ports"])),
        user=user,
        finished=checked_text(state.get("FinishedAt")),
    )


def published(bindings: Any) -> Iterator[tuple[str, int]]:
    """Yield (address, port) of a container's port bindings, with "" for all addresses.

    Port ranges and anything that is not an address and a number are left out.

    >>> list(published({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}, {"HostPort": "1-9"}]}))
    [('127.0.0.1', 8000)]
    """
    for every in (bindings or {}).values():
        for binding in every or []:
            ip, port = binding.get("HostIp") or "", binding.get("HostPort") or ""
            if re.fullmatch(r"[0-9]{1,5}", port) and (not ip or address(ip)):
                yield address(ip), int(port)


def checked_int(value: Any) -> int:
    """Return an integer of Docker's. Raises TypeError or ValueError for anything else."""
    if type(value) is not int:
        raise TypeError(value)
    if abs(value) >= 1 << 63:
        raise ValueError(value)
    return value


def checked_text(value: Any) -> str:
    """Return a text of Docker's, "" for null. Raises TypeError for anything else."""
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return (
        (value or "").encode(errors="replace").decode()
    )  # JSON can contain single surrogates, which cannot be printed


def counter(lines: Sequence[str]) -> float:
    """Sum a counter in Prometheus' text format (`name{labels} value`).

    >>> counter(['done{model="a"} 3', 'done{model="b"} 4.5', "done NaN"])
    7.5
    """
    values = (line.rpartition(" ")[2] for line in lines)
    return sum(float(value) for value in values if re.fullmatch(r"\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,2})?", value))


def cuda_log(lines: Sequence[str]) -> str:
    """Parse lines of a log in base64; "" if they are invalid."""
    try:
        return decoded("".join(lines)).decode(errors="replace")
    except ValueError:
        return ""


def probe(lines: Sequence[str]) -> Probe:
    """Parse the answer in base64: the body, and in the last line the status code ("000": no answer)."""
    try:
        text = decoded("".join(lines)).decode(errors="replace").replace("\r", "")
        body, _, status = text.rstrip().rpartition("\n")
    except ValueError:
        return Probe(0, "")
    return Probe(int(status) if re.fullmatch(r"[0-9]{3}", status) else 0, body)
