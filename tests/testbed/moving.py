"""The world moves on: a newer toolkit in NVIDIA's repository, a tag that means another image. And back again."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.testbed import repositories, services, signing
from tests.testbed.models_image import REPOSITORY, VARIANTS
from tests.testbed.testbed import Testbed

NEWER = "1.21.0"


@contextmanager
def newer_toolkit(testbed: Testbed) -> Iterator[str]:
    """While the block runs, http://repo.testbed/nvidia also has a toolkit that nobody has seen; yield its version."""
    key = signing.key(testbed.engine)
    folder = repositories.nvidia(testbed.engine, key, (*repositories.TOOLKITS, NEWER))
    place = services.MOVED / "nvidia"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    try:
        yield NEWER
    finally:
        shutil.rmtree(place)


@contextmanager
def moved_tags(testbed: Testbed) -> Iterator[None]:
    """While the block runs, and until the next `up` or `recreate`, the tags of build b7000 of llama.cpp mean b7001's
    images."""
    tags = [f"{variant}-b7000" for variant in VARIANTS]
    before = {tag: _manifest(testbed, tag) for tag in tags}
    for tag in tags:
        _manifest(testbed, tag, _manifest(testbed, tag.replace("b7000", "b7001")))
    try:
        yield
    finally:
        for tag, content in before.items():
            _manifest(testbed, tag, content)


def _manifest(testbed: Testbed, tag: str, content: bytes | None = None) -> bytes:
    """Get, or put, what the registry has under a tag."""
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    headers = {"Accept": kind, "Content-Type": kind}
    url = f"http://{testbed.registry}/v2/{REPOSITORY}/manifests/{tag}"
    request = urllib.request.Request(url, content, headers, method="PUT" if content else "GET")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())
