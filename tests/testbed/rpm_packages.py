"""The rpm packages that hosts of the Red Hat family may install, with real rpmbuild, rpmsign and createrepo_c.

docker-ce/  Docker's: names, versions' spelling (epoch 3 and 1, .el9), dependencies, conflicts, scriptlets and units
            follow Docker's docker-ce-packaging and containerd-packaging; the programs are Debian's. Each is signed, the
            metadata are not, as upstream.
nvidia/     the toolkit's stand-ins, the same files as in the .deb packages. The metadata are signed, the packages are
            not, as upstream.
rocky/      what a host takes from its distribution: curl, iptables, the versionlock plugin of dnf (Debian's files),
            container-selinux (empty), and rivals of docker-ce that own no file.
cuda/       a part of a newer toolkit (1.21.0), as another repository of NVIDIA's may have it; empty packages
"""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import cache, docker_ce, signing, workshop
from tests.testbed.docker_ce import Release
from tests.testbed.engine import Engine
from tests.testbed.paths import CHECKOUT, PACKAGE
from tests.testbed.signing import SigningKey
from tests.testbed.toolkit import build as toolkit

_RECIPE = cache.recipe(__file__)
_EPOCH = "1786579200"
_UNITS = "systemctl daemon-reload >/dev/null 2>&1 || :"
_RESTART = f'{_UNITS}\nif [ "$1" -ge 1 ]; then systemctl try-restart {{0}}.service >/dev/null 2>&1 || :; fi'
_PRESET = f'{_UNITS}\nif [ "$1" -eq 1 ]; then systemctl --no-reload preset {{0}}.service >/dev/null 2>&1 || :; fi'
_STOP = 'if [ "$1" -eq 0 ]; then systemctl --no-reload disable --now {0} >/dev/null 2>&1 || :; fi'
_GROUP = "getent group docker >/dev/null || groupadd --system docker"


@dataclass(frozen=True)
class Spec:
    """One package. evr: "3:28.5.2-1.el9". relations: lines of a spec file. tree: folder with its files, "" for none.
    scripts: "post" → shell."""

    name: str
    evr: str
    relations: tuple[str, ...] = ()
    tree: str = ""
    scripts: dict[str, str] = field(default_factory=dict)
    arch: str = "x86_64"

    @property
    def file(self) -> str:
        """The spec file's name."""
        return f"{self.name}-{self.evr.replace(':', '_')}.spec"

    def text(self) -> str:
        """The spec file's content."""
        epoch, _, rest = self.evr.rpartition(":")
        version, _, release = rest.rpartition("-")
        lines = [f"Name: {self.name}", f"Version: {version}", f"Release: {release}", "License: see upstream"]
        lines += [f"Epoch: {epoch}"] if epoch else []
        lines += ["Summary: as upstream's, made for gpurack's testbed", "AutoReqProv: no", *self.relations]
        lines += ["BuildArch: noarch"] if self.arch == "noarch" else []
        lines += ["%description", "As upstream's, made for gpurack's testbed.", "%install", "mkdir -p %{buildroot}"]
        if self.tree:
            lines.append(f"cp -a %{{trees}}/{self.tree}/. %{{buildroot}}/")
        for when, script in self.scripts.items():
            lines += [f"%{when}", script]
        lines += ["%files", f"%include %{{trees}}/{self.tree}.files" if self.tree else ""]
        return "\n".join(lines) + "\n"


def build(specs: list[Spec], outdir: Path) -> str:
    """Return shell commands that make the packages in a folder, side by side.

    Trees are relative to the working folder.
    """
    # zstd at its lowest: made in seconds, and no program reads them twice.
    defines = {
        # a folder for each: two rpmbuilds at once throw away each other's
        "trees": "$PWD", "_topdir": "$PWD/top/SPEC", "_builddir": "$PWD/top/SPEC", "_rpmdir": str(outdir),
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm", "_binary_payload": "w1.zstdio",
        "debug_package": "%{nil}", "__os_install_post": "%{nil}", "_build_id_links": "none", "_buildhost": "testbed",
        "clamp_mtime_to_source_date_epoch": "1",
    }  # fmt: skip
    options = " ".join(f'--define "{name} {value}"' for name, value in defines.items())
    folders = " ".join(f"top/{spec.file}" for spec in specs)
    lines = [f"mkdir -p {folders} {outdir}; export SOURCE_DATE_EPOCH={_EPOCH}"]
    for spec in specs:
        lines.append(f"cat > {spec.file} <<'END'\n{spec.text()}END")
        if spec.tree:  # every file and link; folders belong to nobody, as most of the distribution's do
            config = "s|^/etc/.*|%config(noreplace) &|"
            find = f"(cd {spec.tree} && find . ! -type d | sed 's|^\\.||; {config}')"
            lines.append(f"{find} > {spec.tree}.files")
    names = " ".join(spec.file for spec in specs)
    lines.append(f"printf '%s\\n' {names} | xargs -P 2 -I SPEC rpmbuild -bb --quiet {options} SPEC >&2")
    return "\n".join(lines) + "\n"


def sign(folder: Path, key: SigningKey) -> str:
    """Return shell commands that sign all packages in a folder."""
    return (
        f'rpmsign --define "_gpg_name {key.fingerprint}" --define "_gpg_path {key.home}" '
        f'--define "__gpg $(command -v gpg)" --addsign {folder}/*.rpm >&2\n'
    )


def index(folder: Path, key: SigningKey | None) -> str:
    """Return shell commands that make a folder of packages a repository; signed metadata with a key."""
    script = f"createrepo_c --quiet --no-database --simple-md-filenames --revision 1 {folder} >&2\n"
    if key:
        gpg = f"gpg --homedir {shlex.quote(str(key.home))} --batch --yes -u {key.fingerprint}"
        script += f"{gpg} --armor --detach-sign -o {folder}/repodata/repomd.xml.asc {folder}/repodata/repomd.xml\n"
    return script


def docker_specs(release: Release) -> list[Spec]:
    """The packages of one Docker version; their trees are made by docker_ce.trees()."""
    engine = f"{release.number}{release.suffix}"
    old = tuple(f"Conflicts: {name}" for name in ("docker", "docker-io"))
    same = ("Provides: containerd", "Provides: runc", "Obsoletes: containerd", "Obsoletes: runc")
    plugin = "Enhances: docker-ce-cli"
    return [
        Spec(
            "docker-ce",
            f"3:{engine}",
            (
                "Requires: /usr/sbin/groupadd", "Requires: docker-ce-cli", "Requires: container-selinux",
                "Requires: systemd", "Requires: (iptables-nft or iptables)", "Requires: containerd.io >= 1.7.24",
                "Requires: tar", "Requires: xz", *old, "Conflicts: docker-ee",
            ),
            "docker-ce",
            {
                "post": f"{_PRESET.format('docker')}\n{_GROUP}",
                "preun": _STOP.format("docker.service docker.socket"),
                "postun": _RESTART.format("docker"),
            },
        ),
        Spec(
            "docker-ce-cli",
            f"1:{engine}",
            ("Requires: /bin/sh", "Requires: /usr/sbin/groupadd", "Recommends: docker-buildx-plugin",
             "Recommends: docker-compose-plugin", *old),
            "docker-ce-cli",
            {"post": _GROUP},
        ),
        Spec(
            "containerd.io",
            f"{release.containerd}{release.suffix}",
            (*same, "Conflicts: containerd", "Conflicts: runc"),
            "containerd.io",
            {
                "post": _PRESET.format("containerd"),
                "preun": _STOP.format("containerd.service"),
                "postun": _RESTART.format("containerd"),
            },
        ),
        Spec("docker-buildx-plugin", f"{release.buildx}{release.suffix}", (plugin,), "docker-buildx-plugin"),
        Spec("docker-compose-plugin", f"{release.compose}{release.suffix}", (plugin,), "docker-compose-plugin"),
    ]  # fmt: skip


def toolkit_specs(version: str) -> list[Spec]:
    exact = f"{version}-1"
    base, tools = f"nvidia-container-toolkit-base = {exact}", f"libnvidia-container-tools = {exact}"
    refresh = (
        "/usr/bin/nvidia-ctk --quiet config --config-file=/etc/nvidia-container-runtime/config.toml --in-place\n"
        f"{_UNITS}\nfor unit in nvidia-cdi-refresh.path nvidia-cdi-refresh.service; do\n"
        '    systemctl enable --now "$unit" >/dev/null 2>&1 || echo "Warning: Failed to enable $unit" >&2\ndone\n'
        "systemctl start nvidia-cdi-refresh.service >/dev/null 2>&1 || :"
    )
    hook = "ln -sf /usr/bin/nvidia-container-runtime-hook /usr/bin/nvidia-container-toolkit"
    unhook = 'if [ "$1" -eq 0 ]; then rm -f /usr/bin/nvidia-container-toolkit; fi'
    stop = _STOP.format("nvidia-cdi-refresh.path nvidia-cdi-refresh.service")
    obsolete = ("Obsoletes: nvidia-container-runtime <= 3.5.0-1", "Obsoletes: nvidia-container-runtime-hook <= 1.4.0-2")
    scripts = {
        "nvidia-container-toolkit": {"post": hook, "postun": unhook},
        "nvidia-container-toolkit-base": {"posttrans": refresh, "preun": stop, "postun": _UNITS},
    }
    relations: dict[str, tuple[str, ...]] = {
        "nvidia-container-toolkit": (f"Requires: {base}", f"Requires: {tools}", *obsolete),
        "nvidia-container-toolkit-base": (),
        "libnvidia-container-tools": (f"Requires: libnvidia-container1 >= {exact}",),
        "libnvidia-container1": (),
    }
    return [Spec(name, exact, relations[name], f"{name}-{version}", scripts.get(name, {})) for name in relations]


def rocky_specs() -> list[Spec]:
    """What hosts take from their distribution; the trees are made by `_rocky_trees`."""
    plugin = ("Provides: dnf-command(versionlock)", "Provides: yum-plugin-versionlock")
    podman = ("Provides: docker = 2:5.4.0-1.el9", "Conflicts: docker-ce-cli", "Conflicts: moby-engine")
    return [
        Spec("testbed-libraries", "1-1", (), "libraries"),
        Spec("curl", "7.76.1-31.el9", ("Requires: testbed-libraries",), "curl"),
        Spec("iptables-nft", "1.8.10-11.el9", ("Requires: testbed-libraries", "Provides: iptables"), "iptables"),
        Spec("python3-dnf-plugin-versionlock", "4.3.0-20.el9", plugin, "versionlock", arch="noarch"),
        Spec("container-selinux", "3:2.235.0-1.el9", arch="noarch"),
        Spec("podman-docker", "2:5.4.0-1.el9", podman, arch="noarch"),
        Spec("runc", "4:1.2.5-2.el9"),
        Spec("docker", "25.0.8-1.el9", arch="noarch"),
        Spec("hello", "1.0-1.el9", arch="noarch"),
        Spec("hello", "2.0-1.el9", arch="noarch"),
    ]


def cuda_specs() -> list[Spec]:
    """Two of the toolkit's four packages, newer than NVIDIA's own repository has them; the other two are nowhere."""
    return [Spec(spec.name, spec.evr, spec.relations) for spec in toolkit_specs("1.21.0")[:2]]


def _rocky_trees(debs: Path, plain: Path) -> str:
    """Return shell commands that lay out the files of rocky_specs(). debs: what a host lacks for curl and iptables."""
    return (
        f"mkdir all curl iptables libraries versionlock\nfor deb in {debs}/*.deb; do\n"
        "    case $deb in */curl_*) to=curl;; */iptables_*) to=iptables;; *) to=libraries;; esac\n"
        "    dpkg-deb -x $deb $to\ndone\n"
        f"dpkg-deb -x {plain}/dnf-plugins-core_*.deb all\n"
        "modules=usr/lib/python3/dist-packages; mkdir -p versionlock/etc/dnf/plugins versionlock/$modules/dnf-plugins\n"
        "mv all/etc/dnf/plugins/versionlock.* versionlock/etc/dnf/plugins/\n"
        "mv all/$modules/dnfpluginscore versionlock/$modules/\n"
        "mv all/$modules/dnf-plugins/versionlock.py versionlock/$modules/dnf-plugins/\n"
        # what the distributions' alternatives do
        "for name in iptables ip6tables; do for end in '' -save -restore; do\n"
        "    ln -s $name-nft$end iptables/usr/sbin/$name$end\ndone; done\n"
        # /lib is a link on the host; man pages and the like are in nobody's way but cost time
        "for tree in curl iptables libraries; do\n"
        "    rm -rf $tree/usr/share\n    [ ! -d $tree/lib ] || cp -a $tree/lib $tree/usr/; rm -rf $tree/lib\n"
        "done\n"
    )


def rocky_key(engine: Engine) -> SigningKey:
    """The distribution's own key: what it signed says nothing about Docker's packages, once rpm knows both."""
    return signing.key(engine, "signing-rocky")


def made(engine: Engine, key: SigningKey, host: Path, trixie: Path, sid: Path) -> Path:
    """Return the folder with the repositories rocky/, docker-ce/ and nvidia/, each as below its base URL.

    host, trixie, sid: folders of suites.made(): what a host lacks, and the Docker programs of two ages.
    """
    suffix = "-1.el9"
    old = Release("26.1.5", "1.7.24", "0.13.1", "2.26.1", suffix, trixie / "plain", trixie / "plain")
    new = Release("28.5.2", "2.1.9", "0.29.1", "2.40.3", suffix, sid / "plain", trixie / "plain")
    own = rocky_key(engine)
    begin = 'work=$(mktemp -d); trap \'rm -rf "$work"\' EXIT; cd "$work"\n'

    def docker(folder: Path) -> None:
        for release in (old, new):
            script = begin + docker_ce.trees(release) + build(docker_specs(release), folder)
            workshop.work(engine, script, what=f"Repacking Docker {release.number} as rpm")
        workshop.work(engine, sign(folder, key) + index(folder, None), what="Indexing Docker's rpm repository")

    def others(folder: Path) -> None:
        rocky, nvidia = folder / "rocky" / "9" / "x86_64", folder / "nvidia" / "stable" / "rpm" / "x86_64"
        cuda = folder / "cuda"
        script = begin + _rocky_trees(host / "debs", host / "plain") + build(rocky_specs(), rocky)
        script += sign(rocky, own) + index(rocky, own)
        script += build(cuda_specs(), cuda) + index(cuda, None)
        python = sys.executable if workshop.is_here() else "python3"
        script += f"(here=$PWD; cd {CHECKOUT}; {python} -m tests.testbed.toolkit.build --trees $here)\n"
        script += build([spec for version in toolkit.VERSIONS for spec in toolkit_specs(version)], nvidia)
        workshop.work(engine, script + index(nvidia, key), what="Making the rpm repositories of Rocky and NVIDIA")

    def make(folder: Path) -> None:
        workshop.bring_rpm()
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(docker, folder / "docker-ce" / "linux" / "centos" / "9" / "x86_64" / "stable")
            two = pool.submit(others, folder)
            one.result(), two.result()

    files = [path for place in ("docker_ce", "toolkit") for path in cache.sources(PACKAGE / place)]
    recipe = (_RECIPE, docker_ce.RECIPE, *files, key.fingerprint, own.fingerprint, host)
    return cache.entry("repo-rpm", recipe, make, "rpm repositories")
