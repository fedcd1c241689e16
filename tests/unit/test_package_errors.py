"""What apt 3.0, dnf 4.23 and dnf5 5.4 print when they fail, recorded with the testbed's repositories; the code."""

from collections.abc import Callable

import pytest

from gpurack.plan.packages.package_errors import available, explain, explain_apt
from gpurack.spec.problems import Problem


def code(problem: Problem | None) -> str | None:
    return problem and problem.code


THERE = "there: docker-ce 3:26.1.5-1.el9@gpurack-docker-ce 3:28.5.2-1.el9@gpurack-docker-ce"
CURL = (
    "Curl error (6): Could not resolve hostname for http://nowhere.testbed/nvidia/stable/rpm/x86_64/repodata/repomd.xml"
)
MANY = "there: docker-ce " + " ".join(f"3:28.{minor}.0-1.el9@a 3:28.{minor}.0-2.el9@a" for minor in range(20))
UNLIKE = [
    "there: nvidia-container-toolkit 1.21.0-1@cuda 1.19.1-1@gpurack-nvidia 1.20.1-1@gpurack-nvidia",
    "there: libnvidia-container1 1.19.1-1@gpurack-nvidia 1.20.1-1@gpurack-nvidia",
]
PROBLEM = [
    "Error: ",
    " Problem: package nvidia-container-toolkit-1.21.0-1.x86_64 from cuda requires libnvidia-container-tools = "
    "1.21.0-1, but none of the providers can be installed",
    "  - cannot install the best candidate for the job",
    "  - nothing provides libnvidia-container-tools = 1.21.0-1 needed by nvidia-container-toolkit-1.21.0-1.x86_64",
]

CASES = {
    "dnf 4, metadata of another key": (
        ["n       35 kB/s | 659  B     00:00    ",
         "Error: Failed to download metadata for repo 'gpurack-nvidia-container-toolkit': repomd.xml GPG signature "
         "verification error: Bad GPG signature"],
        "repository-not-signed",
    ),
    "dnf 5, metadata of another key": (
        [" gpurack-nvidia-container-toolkit       100% | 178.0 KiB/s |   2.0 KiB |  00m00s",
         ">>> repomd.xml GPG signature verification error: Signing key not found", "Repositories loaded.",
         "Failed to resolve the transaction:", "No match for argument: libnvidia-container-tools"],
        "repository-not-signed",
    ),
    "dnf 4, somebody else's metadata": (
        ["Error: Failed to download metadata for repo 'epel': repomd.xml GPG signature verification error: x"],
        "repository-not-signed",
    ),
    "dnf 4, a package of another key": (
        ["Import of key(s) didn't help, wrong key(s)?",
         "Public key for docker-ce-28.5.2-1.el9.x86_64.rpm is not installed. Failing package is: "
         "docker-ce-3:28.5.2-1.el9.x86_64", " GPG Keys are configured as: file:///etc/pki/rpm-gpg/other.asc",
         "Error: GPG check FAILED", THERE],
        "package-not-signed",
    ),
    "dnf 5, a package of another key": (
        ["Transaction failed: Signature verification failed.",
         'OpenPGP check for package "docker-compose-plugin-2.40.3-1.el9.x86_64" (/var/cache/x.rpm) from repo '
         '"gpurack-docker-ce" has failed: Import of the key didn\'t help, wrong key?'],
        "package-not-signed",
    ),
    "dnf 4, no such name": (
        ["Errors during downloading metadata for repository 'gpurack-nvidia-container-toolkit':",
         f"  - {CURL} [Could not resolve host: nowhere.testbed]",
         "Error: Failed to download metadata for repo 'gpurack-nvidia-container-toolkit': Cannot download repomd.xml: "
         "Cannot download repodata/repomd.xml: All mirrors were tried"],
        "repository-unreachable",
    ),
    "dnf 4, somebody else's repository": (
        ["Errors during downloading metadata for repository 'epel':",
         "  - Status code: 404 for http://m.example/epel/repodata/repomd.xml (IP: 10.0.0.1)",
         "Error: Failed to download metadata for repo 'epel': Cannot download repomd.xml: All mirrors were tried"],
        "repository-unreachable",
    ),
    "dnf 5, not found": (
        [" gpurack-docker-ce                      100% |  29.9 KiB/s | 612.0   B |  00m00s",
         ">>> Status code: 404 for http://10.0.0.9/repodata/repomd.xml (IP: 10.0.0.9) - http://10.0.0.9/repodata/repomd",
         ">>> Usable URL not found", "No match for argument: docker-ce-28.5.2-*"],
        "repository-unreachable",
    ),
    "dnf 4, no such version": (
        ["No match for argument: docker-ce-99.9.9-*", "Error: Unable to find a match: docker-ce-99.9.9-*", THERE],
        "version-not-found",
    ),
    "dnf 5, no such version of many": (
        ["Failed to resolve the transaction:", "No match for argument: docker-ce-99.9.9-*", MANY],
        "version-not-found",
    ),
    "an exact version": (
        ["Error: Unable to find a match: docker-ce-3:28.5.1-1.el9", "there: docker-ce 3:26.1.5-1.el9@gpurack"],
        "version-not-found",
    ),
    "no such package": (
        ["Error: Unable to find a match: python3-dnf-plugin-versionlock"],
        "package-not-found",
    ),
    "yum 3, no such version": (
        ["No package docker-ce-99.9.9-* available.", "Error: Nothing to do", THERE],
        "version-not-found",
    ),
    "yum 3, a requirement": (
        ["--> Finished Dependency Resolution", "Error: Package: 3:docker-ce-26.1.4-1.el7.x86_64 (gpurack-docker-ce)",
         "           Requires: container-selinux >= 2:2.74", " You could try using --skip-broken"],
        "dependency-not-found",
    ),
    "dnf 4, excluded": (
        ["All matches were filtered out by exclude filtering for argument: docker-ce-26.1.5-*",
         "Error: Unable to find a match: docker-ce-26.1.5-*", THERE],
        "package-hidden",
    ),
    "dnf 5, excluded": (
        ["Failed to resolve the transaction:",
         "Argument 'docker-ce-cli-26.1.5-*' matches only packages excluded by versionlock."],
        "package-hidden",
    ),
    "two repositories": (
        [*PROBLEM, *UNLIKE],
        "toolkit-versions-conflict",
    ),
    "something else does not fit": (
        [" Problem: problem with installed package podman-docker-2:5.4.0-1.el9.noarch",
         "  - package podman-docker-2:5.4.0-1.el9.noarch from @System conflicts with docker-ce-cli", THERE],
        "packages-conflict",
    ),
    "rpm's database": (
        ["error: cannot open Packages database in /var/lib/rpm", "Error: Error: rpmdb open failed"],
        "rpm-database-broken",
    ),
    "no room": (
        ["Error: Transaction test error:", "  At least 250MB more space needed on the / filesystem."],
        "no-disk-space",
    ),
    "unknown": (["Error: something that nobody saw yet"], None),
    "nothing": ([], None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_dnf_says_is_one_of_our_codes(case: str) -> None:
    lines, expected = CASES[case]
    assert code(explain(lines, "dnf")) == expected


def test_wording_of_package_errors_is_golden(check_golden: Callable[[str, dict[str, list[str]]], None]) -> None:
    of_rpm = {f"rpm/{case}": explain(lines, "dnf") for case, (lines, _) in CASES.items()}
    of_apt = {f"apt/{case}": explain_apt(lines) for case, (lines, _) in APT_CASES.items()}
    check_golden("packages", {case: [problem.what] for case, problem in {**of_rpm, **of_apt}.items() if problem})


def test_commands_in_it_are_those_of_the_host() -> None:
    """RHEL 8 and 9 may have yum alone, a link to dnf."""
    assert "(yum repolist)." in str(explain(CASES["no such package"][0], "yum"))
    assert str(explain(CASES["dnf 4, excluded"][0], "yum")).endswith("yum versionlock list).")


def test_parses_available_versions() -> None:
    assert available([THERE, "there: curl", "else"]) == {
        "docker-ce": [("3:26.1.5-1.el9", "gpurack-docker-ce"), ("3:28.5.2-1.el9", "gpurack-docker-ce")],
        "curl": [],
    }


DEBS = "http://repo.testbed/docker-ce/linux/debian"
REACH = (
    "Check that the host can reach it, or set a mirror in the inventory's mirrors. "
    "Repositories that gpurack does not manage are in /etc/apt/sources.list.d."
)
THERE_APT = f"there: docker-ce 5:26.1.5-1~debian.13~trixie@{DEBS} 5:28.5.2-1~debian.13~trixie@{DEBS}"
UNMET = [
    "The following packages have unmet dependencies:",
    " nvidia-container-toolkit : Depends: libnvidia-container-tools (= 1.21.0-1) but 1.20.1-1 is to be installed",
    "E: Unable to correct problems, you have held broken packages.",
    "E: The following information from --solver 3.0 may provide additional context:",
    "   Unable to satisfy dependencies. Reached two conflicting decisions:",
]

APT_CASES = {
    "another key": (
        [f"Err:2 {DEBS} trixie InRelease",
         "  Sub-process /usr/bin/sqv returned an error code (1), error message is: Missing key 79D1F449AE78, which is "
         "needed to verify signature.",
         f"W: OpenPGP signature verification failed: {DEBS} trixie InRelease: Sub-process /usr/bin/sqv returned",
         f"E: The repository '{DEBS} trixie InRelease' is not signed."],
        "repository-not-signed",
    ),
    "a flat repository's": (
        ["E: The repository 'http://repo.testbed/nvidia/stable/deb/amd64  InRelease' is not signed."],
        "repository-not-signed",
    ),
    # after a successful apt with the right key; the first by apt 3.0, the second by apt 2.6
    "a key that fits no more": (
        ["E: Failed to fetch http://repo.testbed/nvidia/stable/deb/amd64/InRelease  Sub-process /usr/bin/sqv returned "
         "an error code (1), error message is: Missing key 79D1F449AE78, which is needed to verify signature.",
         "E: Some index files failed to download. They have been ignored, or old ones used instead."],
        "repository-not-signed",
    ),
    "a key that fits no more, older apt": (
        [f"E: Failed to fetch {DEBS}/dists/bookworm/InRelease  The following signatures couldn't be verified because "
         "the public key is not available: NO_PUBKEY EE714F98D4862DAE"],
        "repository-not-signed",
    ),
    "nobody listens": (
        ["Err:2 http://repo.testbed:81/docker-ce/linux/debian trixie InRelease",
         "  Could not connect to repo.testbed:81 (10.213.0.254). - connect (111: Connection refused) [IP: 10.2.0.4 80]",
         "E: Failed to fetch http://repo.testbed:81/docker-ce/linux/debian/dists/trixie/InRelease  Unable to connect "
         "to repo.testbed:81: [IP: 10.213.0.254 80]",
         "E: Some index files failed to download. They have been ignored, or old ones used instead."],
        "repository-unreachable",
    ),
    "nothing there": (
        ["Err:3 http://repo.testbed/nowhere/linux/debian trixie Release", "  404  Not Found [IP: 10.213.0.254 80]",
         "E: The repository 'http://repo.testbed/nowhere/linux/debian trixie Release' does not have a Release file."],
        "repository-unreachable",
    ),
    "no such version": (
        ["E: Version '5:27.0.1-*' for 'docker-ce' was not found",
         "E: Version '5:27.0.1-*' for 'docker-ce-cli' was not found", THERE_APT],
        "version-not-found",
    ),
    "no such package": (
        ["E: Unable to locate package docker-compose-v2"],
        "package-not-found",
    ),
    "two repositories": (
        [*UNMET, "there: nvidia-container-toolkit 1.19.1-1@http://a/deb 1.20.1-1@http://a/deb 1.21.0-1@http://b/cuda",
         "there: libnvidia-container-tools 1.19.1-1@http://a/deb 1.20.1-1@http://a/deb"],
        "toolkit-versions-conflict",
    ),
    "something else does not fit": (
        UNMET,
        "packages-conflict",
    ),
    "the same file": (
        ["dpkg: error processing archive /tmp/x/docker-buildx-plugin_0.29.1-1_amd64.deb (--unpack):",
         " trying to overwrite '/usr/libexec/docker/cli-plugins/docker-buildx', which is also in package docker-buildx "
         "(0.13.1+ds1-3)", "E: Sub-process /usr/bin/dpkg returned an error code (1)"],
        "package-file-conflict",
    ),
    "unknown": (["E: something that nobody saw yet"], None),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "expected"), APT_CASES.values(), ids=APT_CASES)
def test_what_apt_says_is_one_of_our_codes(lines: list[str], expected: str | None) -> None:
    assert code(explain_apt(lines)) == expected
