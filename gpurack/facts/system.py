"""The sections of the snapshot about the system: packages, files, units, users, addresses, listeners. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from ipaddress import ip_address

from gpurack import paths
from gpurack.facts import nvidia
from gpurack.facts.lines import ID, Section, Sections, each, fields, pair, pairs, word
from gpurack.facts.parts import USER_FILES, Carried, File, Kernel, Listener, Os, Package, Unit, User
from gpurack.facts.sections import GZIP, decoded, unzipped
from gpurack.resources import SHIPPED, read_text

PATH = r"/[A-Za-z0-9._/@+:-]+"
"""A path that a pattern of snapshot.sh found. gpurack itself uses no other characters."""
VERSION = r"[A-Za-z0-9.+:~^_()-]*"


def files_of(user: User, said: Sections) -> list[tuple[str, File]]:
    """Return those of a user's files that gpurack requests, in the home and in the folder of the user's sockets."""
    known = {*(f"{user.home}/{file}" for file in USER_FILES), f"{user.runtime}/{paths.USER_RESTART_MARKER}"}
    return [(path, file) for path, file in files(said.get("files", Section()), r"/.*").items() if path in known]


def secret(line: str) -> tuple[str, tuple[str, int]]:
    """Parse `path mode uid`."""
    path, mode, uid = fields(rf"({PATH}) ([0-7]{{3,4}}) (\d{{1,10}})", line)
    return path, (mode, int(uid))


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

    >>> import base64
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


def listeners(lines: Sequence[str], owners: Sequence[str] = ()) -> list[Listener]:
    """Parse `ss -Hltne`. owners: lines `4711 PID USER NAME`, with the number of a socket.

    Fields of ss: state, queues, local address, peer, then options in any order, among them `ino:4711` and, with cgroup
    v2, `cgroup:/system.slice/docker.service`.
    """
    form = r"LISTEN +\d+ +\d+ +(\S+):(\d{1,5}) +\S+(.*)"
    who: dict[str, str] = {}
    for number, pid, user, name in each(owners, lambda line: fields(r"(\d+) (\d+) (\S*) (.*)", line)):
        known = f", user {user}" if user else ""
        who.setdefault(number, f"{name} (pid {pid}{known})")

    def read(line: str) -> Listener:
        place, port, rest = fields(form, line)
        number, unit = re.search(r" ino:(\d+) ", rest), re.search(r" cgroup:/system\.slice/([\w.@-]+) ", rest)
        owner = who.get(number[1], "") if number else ""
        return Listener(place.split("%")[0].strip("[]"), int(port), owner, unit[1] if unit else "")

    return each(lines, read)


def with_zone(time: datetime | None) -> datetime | None:
    """Return a time with a zone; UTC if it has none."""
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time


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
