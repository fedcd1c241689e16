"""What a host's package repositories, its registries and hubs have now: the edge of `gpurack lock --upgrade`."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api import Host

from gpurack.locking.gather import as_root, last
from gpurack.locking.upgrade import News
from gpurack.plan.platforms import platform_of
from gpurack.resources import read_text
from gpurack.shell import sh, word
from gpurack.spec import host as spec
from gpurack.spec.image_ref import split_digest
from gpurack.spec.secrets import read_logins, read_token
from gpurack.state.model import HostState

PARTS = ("paths", "common", "safe_paths", "record", "dockerd", "hashes", "fetch", "images", "newest")
"""Programs of files/, each after what it imports. They go along, so that the host's own may be older."""
RUN = """\
import json, sys, types
given = json.load(sys.stdin)
for name, text in given["parts"]:
    sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), sys.modules[name].__dict__)
sys.modules["newest"].main(given["job"])
"""


def ask(host: Host, wanted: spec.Host, seen: HostState, names: Sequence[str], asked: Mapping[str, Any]) -> News:
    """names: packages. asked: made by `upgrade.questions`. Images are pulled for that; their progress is shown."""
    packages, errors = available(host, seen, names)
    if not (asked["images"] or asked["hubs"]):
        return News(packages, errors=errors)
    secrets = {"logins": read_logins(wanted), "hf_token": read_token(wanted)}
    stdin = json.dumps(
        {"parts": [(name, read_text(f"files/{name}.py")) for name in PARTS], "job": {**asked, **secrets}}
    )
    ok, lines = as_root(host, seen, sh("python3 -c {}", RUN), stdin=stdin)
    images = [match.groups() for line in lines if (match := re.fullmatch(r"(\S+): now (sha256:\w+)", line))]
    commits = [match.groups() for line in lines if (match := re.fullmatch(r"\S+: now (\w+) for (.+)", line))]
    references = {one["name"]: split_digest(one["reference"])[0] for one in asked["images"]}
    return News(
        packages,
        images={name: f"{references[name]}@{digest}" for name, digest in images},
        commits={place: commit for commit, place in commits},
        errors=(
            *errors,
            *(line.removeprefix("error ") for line in lines if line.startswith("error ")),
            *(() if ok else (f"what there is now could not be asked: {last(lines)}.",)),
        ),
    )


def available(host: Host, seen: HostState, names: Sequence[str]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """(package → versions, newest first; sentences)"""
    platform = platform_of(seen.os)
    if not names or platform is None:
        return {}, ()
    command = sh("sh -c {}", word(platform.packages.available(names, seen)))
    ok, lines = as_root(host, seen, command, shown=False)
    if not ok:
        return {}, (f"its package repositories could not be asked: {last(lines)}.",)
    found: dict[str, list[str]] = {}
    for name, version in (line.split() for line in lines if len(line.split()) == 2):
        found.setdefault(name, []).append(version)
    return found, ()
