"""The newest Python of a testbed host (Debian 13: 3.13), with the same locked versions."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.acceptance.conftest import CHECKOUT
from tests.testbed import Host
from tests.testbed.paths import cache_home

PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 31, 28, 27, 26, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "any"]


def wheels(version: str) -> Path:
    """The locked packages for another Python, from the registry or the cache of an earlier run."""
    folder = cache_home() / f"wheels-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    argv += ["--only-binary=:all:", "--python-version", version, "--implementation", "cp", "--find-links", str(folder)]
    argv += [word for platform in PLATFORMS for word in ("--platform", platform)]
    lock = CHECKOUT / "requirements" / "dev.txt"
    subprocess.run([*argv, "--require-hashes", "-r", str(lock), "-d", str(folder)], check=True)
    return folder


def packed(folder: Path) -> bytes:
    """The wheels and the checkout's own files, as one tar."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, check=True).stdout
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in filter(None, files.decode().split("\0")):
            if (CHECKOUT / name).exists():
                tar.add(CHECKOUT / name, f"gpurack/{name}")
        for wheel in folder.glob("*.whl"):
            tar.add(wheel, f"wheels/{wheel.name}")
    return stream.getvalue()


def test_unit_and_operation_tests_pass(cpu5: Host) -> None:
    cpu5.root("apt-get -q update && apt-get -q -y install python3 curl git gnupg")
    version = cpu5.root("python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").stdout.strip()
    assert tuple(map(int, version.split("."))) >= (3, 13), "Debian 13 has 3.13"
    try:
        cpu5.put(packed(wheels(version)), "/srv/newest/all.tar")
        done = cpu5.root(
            "cd /srv/newest && tar xf all.tar && rm all.tar && set -- wheels/pip-*.whl && "
            "python3 $1/pip install -q --no-index --no-deps --target site wheels/*.whl && cd gpurack && "
            # gpurack's own plugin is named, because gpurack is not installed there
            "PYTHONPATH=/srv/newest/site:/srv/newest/gpurack python3 -m pytest -q -p tests.lanes "
            "--basetemp=/srv/newest/tmp "  # includes sparse weights of 30 GB
            "-p gpurack.verify.plugin tests/unit tests/operations "
            "--ignore-glob='*testbed*' --ignore-glob='*standin*' --ignore-glob='*simulated*' "
            # these start their own pytest, which needs an installed gpurack
            "--ignore=tests/unit/verify/test_plugin.py --ignore=tests/unit/verify/test_results.py",
            check=False,
            timeout=900,  # beside another suite, on one core
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    finally:
        cpu5.root("rm -rf /srv/newest")
