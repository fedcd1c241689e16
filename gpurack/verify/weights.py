"""What is known in advance about weights: size and sha256 of their files.

Pure, except for reading the sources of `copy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpurack.spec import local_files
from gpurack.spec.weights import CopyWeights, UrlWeights, Weights, belongs


@dataclass(frozen=True)
class Known:
    """A file. size: in bytes. Both are None if unknown."""

    size: int | None = None
    sha256: str | None = None


def known(path: str, wanted: Weights, hub: Mapping[str, Any] | None, locked: Mapping[str, str]) -> dict[str, Known]:
    """Return file → what it should be. Weights given by a path are known by the lock only.

    The file is relative to a folder, or the file's own name on the host. path: of the weights on the host. hub: what
    files/fetch.py recorded about the repository, None if nothing. locked: file on the host → sha256.
    """
    files = described(wanted, hub)
    for file, sha256 in locked.items():
        if belongs(file, path):
            name = file.removeprefix(f"{path}/") if file.startswith(f"{path}/") else file.rpartition("/")[2]
            files[name] = Known(files.get(name, Known()).size, sha256)
    return files


def described(wanted: Weights, hub: Mapping[str, Any] | None) -> dict[str, Known]:
    """Return the same according to the inventory and the hub only."""
    if isinstance(wanted, str):
        return {}
    if isinstance(wanted, UrlWeights):
        return {own_name(wanted): Known(None, wanted.sha256)}
    if isinstance(wanted, CopyWeights):
        sources = local_files.files_of(wanted.source)
        files = {name: Known(file.stat().st_size, local_files.sha256(file)) for name, file in sources.items()}
        return {own_name(wanted): files[wanted.source.name]} if wanted.source.is_file() else files
    files = {name: Known(file["size"], file["sha256"]) for name, file in (hub or {}).get("files", {}).items()}
    return {name.rpartition("/")[2]: file for name, file in files.items()} if wanted.file else files


def expected_hashes(
    expected: Mapping[str, Known], files: Mapping[str, Mapping[str, Any]]
) -> dict[str, tuple[str, str]]:
    """Return file → (the sha256 that it should have, a note about its source).

    From the lock, the inventory or the hub; else the one that an earlier reading found. expected: from `known`. files:
    on the host.
    """
    before = {name: (file["then"][2], ", as when it was checked") for name, file in files.items() if file["then"]}
    return before | {name: (file.sha256, "") for name, file in expected.items() if file.sha256}


def own_name(wanted: UrlWeights | CopyWeights) -> str:
    """Return the name on the host of weights that consist of one file."""
    return wanted.place.rpartition("/")[2]
