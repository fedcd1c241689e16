"""Ask a host's package repositories, registries and hubs for their newest versions, for `gpurack lock --upgrade`."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api import Host

from gpurack.facts.model import HostFacts
from gpurack.inventory.secrets import read_logins, read_token
from gpurack.locking.gather import last_line, run_as_root
from gpurack.locking.upgrade import News
from gpurack.operations.output import errors_in
from gpurack.plan.packages.platforms import platform_of
from gpurack.resources import modules_of, read_text
from gpurack.shell import sh, word
from gpurack.spec import host as spec
from gpurack.spec.image_ref import split_digest

RUN = """\
import json, sys, types
given = json.load(sys.stdin)
for name, text in given["parts"]:
    sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), sys.modules[name].__dict__)
sys.modules["newest"].main(given["job"])
"""


def parts() -> list[tuple[str, str]]:
    """(name, text) of newest.py and what it imports. They are sent along because the host's own may be older."""
    return [(name, read_text(f"files/{name}.py")) for name in (*modules_of("newest"), "newest")]


def find_newest(
    host: Host, wanted: spec.Host, seen: HostFacts, names: Sequence[str], request: Mapping[str, Any]
) -> News:
    """The newest versions that a host can get. names: packages. request: made by `upgrade.newest_request`.

    Pulls the images to learn their digests; their progress is shown.
    """
    packages, errors = available_packages(host, seen, names)
    if not (request["images"] or request["hubs"]):
        return News(packages, errors=errors)
    secrets = {"logins": read_logins(wanted), "hf_token": read_token(wanted)}
    stdin = json.dumps({"parts": parts(), "job": {**request, **secrets}})
    ok, lines = run_as_root(host, seen, sh("python3 -c {}", RUN), stdin=stdin)
    images = [match.groups() for line in lines if (match := re.fullmatch(r"(\S+): now (sha256:[0-9a-f]{64})", line))]
    commits = [match.groups() for line in lines if (match := re.fullmatch(r"\S+: now (\w{1,64}) for (.+)", line, re.A))]
    references = {one["name"]: split_digest(one["reference"])[0] for one in request["images"]}
    return News(
        packages,
        images={name: f"{references[name]}@{digest}" for name, digest in images if name in references},
        commits={place: commit for commit, place in commits},
        errors=(
            *errors,
            *errors_in(lines),
            *(() if ok else (f"could not look up the newest images and commits: {last_line(lines)}.",)),
        ),
    )


def available_packages(
    host: Host, seen: HostFacts, names: Sequence[str]
) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """(package → versions, newest first; errors)"""
    platform = platform_of(seen.os)
    if not names or platform is None:
        return {}, ()
    command = sh("sh -c {}", word(platform.packages.available(names, seen)))
    ok, lines = run_as_root(host, seen, command, shown=False)
    if not ok:
        return {}, (f"could not query the package repositories: {last_line(lines)}.",)
    found: dict[str, list[str]] = {}
    for name, version in (line.split() for line in lines if len(line.split()) == 2):
        found.setdefault(name, []).append(version)
    return found, ()
