"""A changing world: a repository that gets a newer toolkit, and tags that move to other images. Both are undone
afterwards.

Both are separate from what other tests use.
"""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.testbed import repositories, services, signing
from tests.testbed.models_image import REPOSITORY, VARIANTS
from tests.testbed.testbed import Testbed

NVIDIA = "http://repo.testbed/moving/nvidia"
"""A repository like http://repo.testbed/nvidia."""
NEWER = "1.21.0"
BUILD = "b7100"
"""A build of llama.cpp with the images of b7000, until they move."""


@contextmanager
def world(testbed: Testbed) -> Iterator[None]:
    """During the block, NVIDIA's repository and BUILD in the registry are as before any change."""
    _publish(testbed, repositories.TOOLKITS)
    _tag(testbed, "b7000")
    try:
        yield
    finally:
        shutil.rmtree(services.MOVED / "nvidia")


@contextmanager
def newer_toolkit(testbed: Testbed) -> Iterator[None]:
    """During the block, NVIDIA's repository also has a newer toolkit, NEWER."""
    _publish(testbed, (*repositories.TOOLKITS, NEWER))
    try:
        yield
    finally:
        _publish(testbed, repositories.TOOLKITS)


@contextmanager
def moved_tags(testbed: Testbed) -> Iterator[None]:
    """During the block, the tags of BUILD point to b7001's images."""
    _tag(testbed, "b7001")
    try:
        yield
    finally:
        _tag(testbed, "b7000")


def _publish(testbed: Testbed, versions: tuple[str, ...]) -> None:
    """Serve these versions of the toolkit."""
    folder = repositories.nvidia(testbed.engine, signing.key(testbed.engine), versions)
    shutil.rmtree(services.MOVED / "nvidia", ignore_errors=True)
    shutil.copytree(folder, services.MOVED / "nvidia")


def _tag(testbed: Testbed, build: str) -> None:
    """Point the tags of BUILD to the images of another build."""
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    headers = {"Accept": kind, "Content-Type": kind}
    for variant in VARIANTS:
        url = f"http://{testbed.registry}/v2/{REPOSITORY}/manifests/{variant}-"
        with urllib.request.urlopen(urllib.request.Request(url + build, None, headers), timeout=30) as answer:
            manifest = answer.read()
        request = urllib.request.Request(url + BUILD, manifest, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=30):
            pass
