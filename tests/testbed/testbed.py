"""The testbed as a whole: `up`, `status` and `down`, and what tests use."""

from __future__ import annotations

import fcntl
import ipaddress
import shutil
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import engine as outer
from tests.testbed import (
    engines,
    gguf_models,
    hosts,
    in_use,
    models_image,
    prepared,
    repositories,
    rpm_packages,
    services,
    signing,
    suites,
    workshop,
)
from tests.testbed.engine import Engine
from tests.testbed.hosts import LABEL, NETWORK, Host
from tests.testbed.paths import STATE
from tests.testbed.shell import TestbedError, progress

DEFAULT = ("gpu1", "cpu1")


@dataclass(frozen=True)
class Weights:
    """A served model file."""

    url: str
    sha256: str
    sentence: str
    """What this model always answers."""


@dataclass
class Testbed:
    """The testbed of this checkout."""

    __test__ = False  # pytest collects what is called Test…

    engine: Engine
    hosts: dict[str, Host] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Testbed:
        """Return the running testbed. Raises TestbedError if it is down."""
        found = outer.find()
        known = hosts.existing(found) if found else {}
        if found is None or not known:
            raise TestbedError("The testbed is down: python -m tests.testbed up")
        return cls(found, known)

    @classmethod
    def up(cls, names: Sequence[str] = DEFAULT, kind: str | None = None, *, prepared: bool = False) -> Testbed:
        """Make the services and these hosts run, and return when every one lets its user in.

        What runs already stays as it is; what a broken attempt left is repaired or made anew. `kind` is for names
        from which none follows (see hosts.kind_of). prepared: hosts that are missing are made as the main job leaves
        them (see prepared.py), not from their base images.
        """
        kinds = {name: kind or hosts.kind_of(name) for name in names}
        missing = kinds.keys() - hosts.existing(_engine()).keys() if prepared else ()
        images = _prepared({name: kinds[name] for name in missing}) if missing else {}
        with _alone():
            return _up(kinds, images=images)

    def add(self, name: str, kind: str, *, prepared: bool = False) -> Host:
        """Add a host of a kind (hosts.KINDS) and return it."""
        self.hosts = Testbed.up([name], kind, prepared=prepared).hosts
        return self.host(name)

    def host(self, name: str) -> Host:
        """Return a host by its name."""
        if name not in self.hosts:
            raise TestbedError(f"The testbed has no host {name!r}: python -m tests.testbed up {name}")
        return self.hosts[name]

    def recreate(self, name: str) -> Host:
        """Recreate a host from its base image, without its data; it keeps its port."""
        return self._anew(self.host(name), {})

    def prepared(self, name: str) -> Host:
        """Recreate a host as the main job leaves it, without its data; it keeps its port.

        Its kind follows from its name, unless it exists. Its models are prepared.models(kind)."""
        if name not in self.hosts:
            return self.add(name, hosts.kind_of(name), prepared=True)
        return self._anew(self.host(name), _prepared({name: self.host(name).kind}))

    def copy(self, name: str, *copies: str) -> list[Host]:
        """Make copies of a host in its current state, and return all of them. The host reboots, at another port."""
        kind, image = self.host(name).kind, f"gpurack-testbed/copied-{name}:{uuid.uuid4().hex[:12]}"
        prepared.save(self.host(name), image)
        names = (name, *copies)
        with _alone():
            for one in names:
                hosts.remove(self.engine, one)
            self.hosts = _up(dict.fromkeys(names, kind), images=dict.fromkeys(names, image)).hosts
        return [self.host(one) for one in names]

    def restored(self, name: str, image: str, files: Mapping[str, bytes]) -> Host:
        """Recreate a host from a saved image (prepared.save), with these files.

        Others may change the testbed while its data are restored and while it boots."""
        kind = self.host(name).kind
        hosts.remove(self.engine, name)
        prepared.restore(self.engine, name, kind, image)
        with _alone():
            port = hosts.free_port({host.port for host in hosts.existing(self.engine).values()})
            files = {**files, **prepared.own_files()}
            host = hosts.create(self.engine, name, kind, image, port, files, str(_network(self.engine)[-2]))
            self.engine.docker("start", hosts.container(name))
            hosts.write_ssh_config(hosts.existing(self.engine))
        self.hosts[name] = host
        host.wait()
        host.root("timeout 60 systemctl is-system-running --wait", check=False)
        return host

    def _anew(self, old: Host, images: Mapping[str, str]) -> Host:
        with _alone():
            hosts.remove(self.engine, old.name)
            self.hosts = _up({old.name: old.kind}, ports={old.name: old.port}, images=images).hosts
        return self.host(old.name)

    def remove(self, name: str) -> None:
        """Remove a host with all its data."""
        with _alone():
            hosts.remove(self.engine, name)
            self.hosts = hosts.existing(self.engine)
            hosts.write_ssh_config(self.hosts)

    def weights(self, name: str) -> Weights:
        """Return a served model: alpha, beta, gamma, delta; `slow` is made at the first request."""
        served = gguf_models.served(services.WEIGHTS, name)
        return Weights(f"http://weights.testbed/{name}.gguf", served.sha256, served.sentence)

    def serve_engines(self, *names: str) -> None:
        """Add the images of these engines (tests/testbed/engines) to the registry; existing ones stay.

        The first time takes minutes. Others may change the testbed meanwhile, because each part has its own lock."""
        engines.serve(self.engine, f"http://{self.registry}", names)

    @property
    def ssh_config(self) -> Path:
        """The file for `ssh -F`, with every host by its name."""
        return hosts.SSH_CONFIG

    @property
    def signing_key(self) -> Path:
        """The armoured public key of the testbed's repositories."""
        return signing.key(self.engine).public

    @property
    def registry(self) -> str:
        """The registry's address on this machine (hosts know it as registry.testbed:5000)."""
        return services.address(self.engine, 5000)

    @property
    def web(self) -> str:
        """The address on this machine of the web server that is repo.testbed and weights.testbed."""
        return services.address(self.engine, 80)

    def authority(self) -> str:
        """Return the certificate of the private authority that stands behind https://repo.testbed, weights.testbed and
        registry.testbed:5443; it is a new one whenever the services are made anew."""
        with urllib.request.urlopen(f"http://{self.web}/ca.pem", timeout=10) as answer:
            return str(answer.read().decode())

    def proxy_log(self) -> str:
        """Return what http://proxy.testbed:3128 wrote down of its clients and what they asked for."""
        return self.engine.output("exec", services.NAME, "cat", "/var/log/squid/access.log")

    def down(self, purge: bool = False) -> None:
        """End exactly what `up` made: containers, volumes, network and the private dockerd.

        What makes the next `up` fast stays, unless `purge` also throws the images and the private Docker's data away.
        """
        down(purge)


def end_used() -> None:
    """Remove the hosts that this process used and no other process uses."""
    with _alone():
        engine = outer.find()
        mine = [name for name in in_use.names() if in_use.leave(name)]
        if engine is None or not mine:
            return
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: hosts.remove(engine, name), mine))
        hosts.write_ssh_config(hosts.existing(engine))


def remove_unused(names: Sequence[str]) -> None:
    """Remove these hosts where they exist, so that `up` makes them anew.

    Raises TestbedError if another process uses one.
    """
    with _alone():
        engine = outer.find()
        for name in sorted(hosts.existing(engine).keys() & set(names)) if engine else ():
            in_use.take(name)
            if not in_use.leave(name):
                raise TestbedError(f"{name} is used by a test that runs now. Try again after its end.")
            hosts.remove(engine, name)


def down(purge: bool = False) -> None:
    """End the testbed, or what a broken attempt left of it."""
    if not STATE.exists():
        return
    with _alone():
        for engine in (outer.private(), outer.machine()):
            if engine is None:
                continue
            _clear(engine)
            if purge:
                _forget_images(engine)
            if engine.private:
                engine.stop()
        gone = [hosts.SSH_CONFIG, hosts.KNOWN_HOSTS, hosts.HOST_KEYS, STATE / "state"]
        if purge:
            gone = [path for path in STATE.iterdir() if path.name != "lock"]
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _clear(engine: Engine) -> None:
    mine = f"label={LABEL}={STATE}"
    if containers := engine.output("ps", "-aq", "--filter", mine).split():
        engine.docker("rm", "-f", "-v", *containers)
    if volumes := engine.output("volume", "ls", "-q", "--filter", mine).split():
        engine.docker("volume", "rm", "-f", *volumes)
    if networks := engine.output("network", "ls", "-q", "--filter", mine).split():
        engine.docker("network", "rm", *networks)


def _forget_images(engine: Engine) -> None:
    ours = ("--filter", "reference=gpurack-testbed/*", "--format", "{{.Repository}}:{{.Tag}}")
    if names := engine.output("images", *ours).split():
        engine.docker("rmi", *names)


@contextmanager
def _alone() -> Iterator[None]:
    """Let only one program at a time change the testbed."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another testbed command of this checkout to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _engine() -> Engine:
    """Return the Docker of the testbed; two suites at once start it once."""
    with _alone():
        return workshop.prepare()


def _prepared(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the images of prepared hosts of these kinds: name of a host → image. What is not saved is made."""
    engine, images = _engine(), {}
    for kind in sorted(set(kinds.values())):
        with prepared.one_at_a_time(kind):
            images[kind] = prepared_image(engine, kind)
            if not has(engine, images[kind]):
                testbed, name = Testbed.up([]), f"prepare-{kind}"
                testbed.remove(name)  # left by a failed attempt
                host = testbed.add(name, kind)
                prepared.deploy(host)
                prepared.save(host, images[kind])
                testbed.remove(name)
    return {name: images[kind] for name, kind in kinds.items()}


def prepared_image(engine: Engine, kind: str) -> str:
    """Return the name of the image with a prepared host of this kind. It changes with gpurack and with the parts of the
    testbed."""
    parts = _parts(engine, signing.key(engine), {hosts.KINDS[kind].image})
    return prepared.image(kind, parts.host_images, parts.repositories, parts.layers)


def _up(
    kinds: dict[str, str], *, ports: Mapping[str, int] | None = None, images: Mapping[str, str] | None = None
) -> Testbed:
    """ports, images: of hosts that have a certain one."""
    engine = workshop.prepare()
    name_server = str(_network(engine)[-2])  # hosts get addresses from the other end
    hosts.ensure_key()
    existing = hosts.existing(engine)
    for name, kind in kinds.items():
        if name in existing and existing[name].kind != kind:
            raise TestbedError(
                f"{name} runs already and is of kind {existing[name].kind}: python -m tests.testbed remove {name}"
            )
    key = signing.key(engine)
    parts = _parts(engine, key, {hosts.KINDS[kind].image for kind in kinds.values()})
    if services.start(engine, parts.services_image, parts.repositories, name_server):
        progress("services: repositories, registry and weights are served")
    models_image.push(f"http://{services.address(engine, 5000)}", parts.layers)
    for name, kind in kinds.items():
        in_use.take(name)
        image = parts.host_images[hosts.KINDS[kind].image]
        mirror = parts.mirrors.get(hosts.KINDS[kind].image)
        saved = (images or {}).get(name)
        _host(engine, name, kind, image, saved, (ports or {}).get(name), key, name_server, mirror)
    running = hosts.existing(engine)
    hosts.write_ssh_config(running)
    for name in kinds:
        running[name].wait()
        for account in hosts.KINDS[running[name].kind].accounts:
            running[name].root(f"id -u {account} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {account}")
        if name not in existing:  # its first boot still writes to /etc, and a prepared host's boot unit starts models
            running[name].root("timeout 60 systemctl is-system-running --wait", check=False)
        progress(f"{name} is up: ssh -F {hosts.SSH_CONFIG} {name}")
    return Testbed(engine, running)


@dataclass(frozen=True)
class _Parts:
    """The parts of hosts and services."""

    repositories: dict[str, Path]
    """Path below http://repo.testbed/ → folder."""
    services_image: str
    host_images: dict[str, str]
    """Image of hosts.KINDS → image in this Docker."""
    mirrors: dict[str, Path]
    """Image of hosts.KINDS → folder with the mirror of its suite, where http://repo.testbed/debian has it not: so the
    services go on as they are when the first such host is wanted."""
    layers: list[models_image.Layer]


def _parts(engine: Engine, key: signing.SigningKey, host_images: set[str]) -> _Parts:
    """Return what the testbed is made of; what is not cached is made, side by side as far as it goes."""
    # Three at a time: the smallest machine has two cores, and a part of the work waits for downloads.
    pool = ThreadPoolExecutor(3)
    try:
        trixie = pool.submit(suites.made, engine, "host", suites.TRIXIE)
        serving = pool.submit(suites.made, engine, "services", suites.SERVICES)
        sid = pool.submit(suites.made, engine, "models", suites.MODELS)
        bookworm = pool.submit(suites.made, engine, "host-bookworm", suites.BOOKWORM)
        nvidia = pool.submit(repositories.nvidia, engine, key)
        weights = pool.submit(gguf_models.serve, services.WEIGHTS)
        rpm = pool.submit(suites.made, engine, "host-rpm", suites.RPM) if "host-rpm" in host_images else None
        unstable = pool.submit(suites.made, engine, "host-sid", suites.SID) if "host-sid" in host_images else None
        bases = {"host": trixie.result(), "host-bookworm": bookworm.result()}
        if rpm:
            bases["host-rpm"] = rpm.result()
        mirrors = {}
        if unstable:
            bases["host-sid"] = unstable.result()
            mirrors["host-sid"] = pool.submit(repositories.debian, engine, key, {"sid": bases["host-sid"]})
        suites_of = {"trixie": bases["host"], "bookworm": bases["host-bookworm"]}
        docker = pool.submit(repositories.docker, engine, key, bases["host"], bases["host-bookworm"], sid.result())
        debian = pool.submit(repositories.debian, engine, key, suites_of)
        images = {image: pool.submit(_image, engine, bases[image]) for image in sorted(host_images)}
        services_image = pool.submit(_image, engine, serving.result())
        layers = pool.submit(models_image.layers, sid.result())
        if rpm:
            services.serve_rpm(rpm_packages.made(engine, key, rpm.result(), trixie.result(), sid.result()))
        weights.result()
        return _Parts(
            {"debian": debian.result(), "docker-ce/linux": docker.result(), "nvidia": nvidia.result()},
            services_image.result(),
            {image: made.result() for image, made in images.items()},
            {image: made.result() for image, made in mirrors.items()},
            layers.result(),
        )
    finally:
        # After a failure or Ctrl-C nothing more starts, and started parts are waited for.
        pool.shutdown(cancel_futures=True)


def _network(engine: Engine) -> ipaddress.IPv4Network:
    """Create the hosts' network if it is missing, and return its addresses."""
    form = f'{{{{index .Labels "{LABEL}"}}}} {{{{(index .IPAM.Config 0).Subnet}}}}'

    def look() -> tuple[str, str]:
        owner, _, subnet = engine.output("network", "inspect", "--format", form, NETWORK, check=False).partition(" ")
        return owner, subnet

    owner, subnet = look()
    if not owner:
        # Docker knows which addresses are free, but assigns a fixed one only in a subnet that was set explicitly:
        # let it choose a subnet, then set the same one.
        engine.docker("network", "create", "--label", f"{LABEL}={STATE}", NETWORK)
        owner, subnet = look()
        engine.docker("network", "rm", NETWORK)
        engine.docker("network", "create", "--label", f"{LABEL}={STATE}", "--subnet", subnet, NETWORK)
    elif owner != str(STATE):
        raise TestbedError(f"Another checkout's testbed runs in this Docker ({owner}): end that one first.")
    return ipaddress.IPv4Network(subnet)


def _image(engine: Engine, folder: Path) -> str:
    """Return the image of a base tar, imported when this Docker does not have it."""
    image = f"gpurack-testbed/base:{folder.name}"
    if not has(engine, image):
        progress(f"importing {folder.name}")
        engine.docker("import", str(folder / "image.tar"), image, timeout=300)
    return image


def has(engine: Engine, image: str) -> bool:
    """Whether this Docker has an image."""
    return bool(engine.output("image", "inspect", "--format", "{{.Id}}", image, check=False))


def _host(
    engine: Engine,
    name: str,
    kind: str,
    image: str,
    saved: str | None,
    port: int | None,
    key: signing.SigningKey,
    name_server: str,
    mirror: Path | None,
) -> None:
    form = "{{.State.Status}}"
    state = engine.output("inspect", "--format", form, hosts.container(name), check=False)
    if state == "running":
        return
    if state == "exited":  # shut down, or the machine was: its data are complete
        progress(f"starting {name}")
        engine.docker("start", hosts.container(name))
        return
    if state:
        progress(f"removing what a broken attempt left of {name} ({state})")
    hosts.remove(engine, name)
    taken = {host.port for host in hosts.existing(engine).values()}
    what = hosts.KINDS[kind]
    files = (
        repositories.rpm_host_files(rpm_packages.rocky_key(engine))
        if what.rpm
        else repositories.host_files(what.suite.name, key)
    )
    if mirror:
        source = "/etc/apt/sources.list.d/debian.sources"
        files[source] = files[source].replace(b"http://repo.testbed/debian", f"file:{hosts.MIRROR}".encode())
    progress(f"creating {name} ({kind}{', prepared' if saved else ''})")
    if saved:
        files |= prepared.own_files()
    hosts.create(engine, name, kind, saved or image, port or hosts.free_port(taken), files, name_server, mirror)
    if saved:
        prepared.restore(engine, name, kind, saved)
    engine.docker("start", hosts.container(name))
