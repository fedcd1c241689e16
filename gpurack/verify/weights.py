"""What is known beforehand of weights on a host: sizes and hashes of their files. Pure but for a copy's source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpurack.spec import local_files
from gpurack.spec.weights import CopyWeights, UrlWeights, Weights, belongs


@dataclass(frozen=True)
class Known:
    """A file. size in bytes, sha256: None where it is not known."""

    size: int | None = None
    sha256: str | None = None


def known(path: str, wanted: Weights, hub: Mapping[str, Any] | None, locked: Mapping[str, str]) -> dict[str, Known]:
    """File (of a folder; else its own name on the host) → what it should be. A path, whose source nobody named, is
    known by the lock alone.

    path: where they lie. hub: what was written down of a repository when it was fetched (files/fetch.py), None for
    nothing. locked: file on the host → sha256.
    """
    files = described(wanted, hub)
    for file, sha256 in locked.items():
        if belongs(file, path):
            name = file.removeprefix(f"{path}/") if file.startswith(f"{path}/") else file.rpartition("/")[2]
            files[name] = Known(files.get(name, Known()).size, sha256)
    return files


def described(wanted: Weights, hub: Mapping[str, Any] | None) -> dict[str, Known]:
    """The same, by the inventory and the hub."""
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


def sums(expected: Mapping[str, Known], files: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """File → (the sha256 that it should have, who says so): the lock, the inventory or the hub; else what it was found
    to have when it was read before.

    expected: as of `known`. files: what the host has.
    """
    before = {name: (file["then"][2], ", as when it was checked") for name, file in files.items() if file["then"]}
    return before | {name: (file.sha256, "") for name, file in expected.items() if file.sha256}


def own_name(wanted: UrlWeights | CopyWeights) -> str:
    """The name on the host of weights that are one file."""
    return wanted.place.rpartition("/")[2]
