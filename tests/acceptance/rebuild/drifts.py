"""Single drifts, made by hand on a correct host: how each is made and undone, and what the checks must report.

On two hosts: cpu3 with gamma (a key, weights by URL) and delta (weights by path), gpu3 with alpha on GPU 0 and beta on
GPUs 1 and 2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from tests.testbed import Host
from tests.testbed.inventory import REGISTRY

COMPOSE = "/etc/gpurack/compose.yaml"
DAEMON = "/etc/docker/daemon.json"
WAS = "/root/was"
"""Where something is kept until it is restored."""
IMAGES = f"{REGISTRY}/ghcr/ggml-org/llama.cpp"
PATH_WEIGHTS = "/srv/delta.gguf"
RECORDED = """python3 -c 'import json
path = "/var/lib/gpurack/record.json"
said = json.load(open(path))
said["containers"].setdefault("", {})["old"] = {"id": None, "kind": "model", "definition": "", "applied": ""}
json.dump(said, open(path, "w"))'"""
"""Records a container `old` that gpurack is about to create."""
SERVES = ("ready", "answers")
APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --allow-downgrades --allow-change-held-packages install"
Act = Callable[[Host], None]


@dataclass(frozen=True)
class Drift:
    """fails: the checks that must fail, and no others, as `packages` (of the host) or `gamma ready`. says: a pattern
    that one of them must report. deep: found only by reading all weights. mended: the next run repairs it."""

    name: str
    apply: Act
    undo: Act
    fails: tuple[str, ...]
    says: str
    deep: bool = False
    mended: bool = False


def sh(command: str) -> Act:
    """A root command."""

    def act(host: Host) -> None:
        host.root(command)

    return act


def both(*acts: Act) -> Act:
    """One after the other."""

    def act(host: Host) -> None:
        for one in acts:
            one(host)

    return act


def sed(path: str, change: str) -> Act:
    """Edit a file, and keep a copy."""
    return sh(f"cp -a {path} {path}.was && sed -i '{change}' {path} && ! cmp -s {path} {path}.was")


def back(path: str, then: str = "true") -> Act:
    """Restore the file."""
    return sh(f"mv {path}.was {path}; {then}")


def daemon(change: Callable[[dict[str, Any]], object], then: str = "true") -> Act:
    """Edit daemon.json."""

    def act(host: Host) -> None:
        host.root(f"cp -a {DAEMON} {DAEMON}.was")
        content = json.loads(host.get(DAEMON))
        change(content)
        host.put(json.dumps(content), DAEMON)
        host.root(then)

    return act


def reloaded(live_restore: str) -> str:
    """The command that lets dockerd read daemon.json, and waits until it has this live-restore: it reads it later."""
    looks = f"docker info --format '{{{{.LiveRestoreEnabled}}}}' | grep -qx {live_restore}"
    return f'systemctl reload docker; timeout 30 sh -c "until {looks}; do sleep 0.1; done"'


def compose(model: str, change: Callable[[dict[str, Any]], object]) -> Act:
    """Edit compose.yaml and apply it."""

    def act(host: Host) -> None:
        host.root(f"cp -a {COMPOSE} {COMPOSE}.was")
        content = yaml.safe_load(host.get(COMPOSE))
        change(content["services"][model])
        host.put(yaml.safe_dump(content), COMPOSE)
        host.root(up(model))

    return act


def up(model: str) -> str:
    """Apply what compose.yaml says about a model."""
    return f"docker compose -f {COMPOSE} up -d --no-deps --pull never {model} 2>&1 && {answers(model)}"


def answers(model: str) -> str:
    """Wait until a model's port answers anything."""
    port = {"alpha": 8000, "beta": 8001, "gamma": 8000, "delta": 8001}[model]
    return f"curl -s -o /dev/null --retry 50 --retry-delay 0 --retry-all-errors http://127.0.0.1:{port}/health"


def taken_back(model: str) -> Act:
    """Restore compose.yaml and apply it."""
    return back(COMPOSE, up(model))


def word(service: dict[str, Any], flag: str, value: str) -> None:
    """Change the value of a flag in a command."""
    service["command"][service["command"].index(flag) + 1] = value


def without_key(service: dict[str, Any]) -> None:
    """Remove the key of a model."""
    at = service["command"].index("--api-key-file")
    del service["command"][at : at + 2]


def down(model: str) -> tuple[str, ...]:
    """The checks that fail for a model that does not serve."""
    keyed = ("refuses_a_wrong_key",) if model == "gamma" else ()
    return tuple(f"{model} {check}" for check in (*SERVES, *keyed))


def weights_of(model: str) -> str:
    """The path, for a shell on the host."""
    return f"/var/lib/gpurack/weights/*-{model}.gguf"


def flip(path: str, after: str = ":") -> str:
    """Flip one bit of a file's last byte; doing it again restores it. after: runs with $time, the old mtime."""
    code = 'import sys; f = open(sys.argv[1], "r+b"); f.seek(-1, 2); b = f.read(); '
    code += "f.seek(-1, 2); f.write(bytes([b[0] ^ 1]))"
    return f"for f in {path}; do time=$(stat -c %y $f); python3 -c '{code}' $f; {after}; done"


def background(command: str) -> str:
    """A process that keeps running; its pid is in WAS."""
    begin = f"rm -f {WAS}; setsid bash -c 'echo $$ >{WAS}; {command}' >/dev/null 2>&1 </dev/null &"
    return f"{begin} until [ -s {WAS} ]; do sleep 0.05; done"


SAME_TIME = 'touch -d "$time" $f'
LISTENS = "until ss -Hltn | grep -q 127.0.0.2:8000; do sleep 0.05; done"
SECRET = "/etc/gpurack/secrets/gamma/api_key"
SOURCES = "/etc/apt/sources.list.d"
KEY = "/etc/apt/keyrings/gpurack-docker-ce.asc"

ON_CPU3 = [
    # packages, repositories
    Drift(
        "package-downgraded",
        sh(f"{APT} docker-ce-cli=5:26.1.5-*; apt-mark hold docker-ce-cli"),
        sh(f"{APT} docker-ce-cli=5:28.5.2-*; apt-mark hold docker-ce-cli"),
        ("packages",),
        r"docker-ce-cli: expected 28\.5\.2, found 5:26\.1\.5",
        mended=True,
    ),
    Drift(
        "package-removed",
        sh("dpkg --force-depends --force-hold --force-remove-protected -r docker-buildx-plugin"),
        sh(f"{APT} docker-buildx-plugin && apt-mark hold docker-buildx-plugin"),
        ("packages",),
        "docker-buildx-plugin: expected installed, found not installed",
    ),
    Drift(
        "hold-removed",
        sh("apt-mark unhold containerd.io"),
        sh("apt-mark hold containerd.io"),
        ("holds",),
        "containerd.io: expected held, found not held",
        mended=True,
    ),
    Drift(
        "repository-edited",
        sed(f"{SOURCES}/gpurack-docker-ce.sources", "s/^URIs:.*/URIs: http:\\/\\/elsewhere.example/"),
        back(f"{SOURCES}/gpurack-docker-ce.sources"),
        ("repositories",),
        r'gpurack-docker-ce.sources: expected as written by gpurack, found "URIs: http://elsewhere.example"',
        mended=True,
    ),
    Drift(
        "repository-that-a-user-owns",
        sh(f"chown lab {SOURCES}/gpurack-docker-ce.sources"),
        sh(f"chown root {SOURCES}/gpurack-docker-ce.sources"),
        ("repositories",),
        "gpurack-docker-ce.sources: expected owner root, found owner 1000",
        mended=True,
    ),
    Drift(
        "second-repository-file",
        sh(f"echo deb https://download.docker.com/linux/debian trixie stable > {SOURCES}/docker.list"),
        sh(f"rm {SOURCES}/docker.list"),
        ("repositories",),
        "docker.list: expected no second file",
        mended=True,
    ),
    Drift("key-replaced", sed(KEY, "2,4d"), back(KEY), ("keys",), "docker-ce.asc: .* found another key"),
    Drift(
        "key-removed",
        sh(f"mv {KEY} {WAS}"),
        sh(f"mv {WAS} {KEY}"),
        ("keys",),
        "docker-ce.asc: .* found no file",
        mended=True,
    ),
    # Docker
    Drift(
        "docker-disabled",
        sh("systemctl disable -q docker 2>/dev/null"),
        sh("systemctl enable -q docker 2>/dev/null"),
        ("docker_runs",),
        "docker.service: expected enabled at boot, found disabled",
        mended=True,
    ),
    Drift(
        "daemon-json-key-changed",
        daemon(lambda said: said.update({"live-restore": False})),
        back(DAEMON),
        ("daemon_json",),
        "daemon.json live-restore: expected true, found false",
        mended=True,
    ),
    Drift(
        "daemon-json-key-removed",
        daemon(lambda said: said.pop("insecure-registries")),
        back(DAEMON),
        ("daemon_json",),
        r'daemon.json insecure-registries: expected \["registry.testbed:5000"\], found nothing',
    ),
    Drift(
        "daemon-json-broken",
        sh(f"cp -a {DAEMON} {DAEMON}.was; echo '{{' > {DAEMON}"),
        back(DAEMON),
        ("daemon_json", "docker_took_it_up"),
        "is not JSON",
    ),
    Drift(
        "daemon-does-otherwise",
        daemon(lambda said: said.update({"live-restore": False}), f"{reloaded('false')} && mv {DAEMON}.was {DAEMON}"),
        sh(reloaded("true")),
        ("docker_took_it_up",),
        "dockerd's live-restore: expected true, found false",
    ),
    # boot
    Drift(
        "boot-unit-disabled",
        sh("systemctl disable -q gpurack"),
        sh("systemctl enable -q gpurack"),
        ("boot",),
        "gpurack.service: expected enabled at boot, found disabled",
        mended=True,
    ),
    Drift(
        "boot-unit-edited",
        sed("/etc/systemd/system/gpurack.service", "s/^ExecStart=.*/ExecStart=\\/bin\\/true/"),
        back("/etc/systemd/system/gpurack.service"),
        ("boot",),
        'gpurack.service: .* found "ExecStart=/bin/true"',
        mended=True,
    ),
    Drift(
        "runner-edited",
        sed("/usr/local/lib/gpurack/models.py", "1a import this"),
        back("/usr/local/lib/gpurack/models.py"),
        ("boot",),
        'models.py: .* found "import this"',
        mended=True,
    ),
    Drift(
        "runner-that-all-may-change",
        sh("chmod 777 /usr/local/lib/gpurack/models.py"),
        sh("chmod 755 /usr/local/lib/gpurack/models.py"),
        ("boot",),
        "models.py: expected mode 755, found 777",
        mended=True,
    ),
    # secrets
    Drift(
        "secret-of-mode-644",
        sh(f"chmod 644 {SECRET}"),
        sh(f"chmod 400 {SECRET}"),
        ("gamma files",),
        "found mode 644",
        mended=True,
    ),
    Drift(
        "secret-of-another",
        sh(f"chown lab {SECRET}"),
        sh(f"chown root {SECRET}"),
        ("gamma files",),
        "found owner lab",
        mended=True,
    ),
    Drift(
        "secrets-folder-open",
        sh("chmod 755 /etc/gpurack/secrets"),
        sh("chmod 700 /etc/gpurack/secrets"),
        ("secrets",),
        "/etc/gpurack/secrets: expected mode 700, owner root, found mode 755",
    ),
    Drift(
        "another-key-on-the-host",
        sh(f"cp -a {SECRET} {WAS}; echo sk-other > {SECRET}"),
        sh(f"cat {WAS} > {SECRET}"),
        ("gamma files",),
        "expected what the inventory has, found something else",
    ),
    Drift(
        "key-of-a-model-that-is-gone",
        sh("mkdir /etc/gpurack/secrets/old; echo sk-old > /etc/gpurack/secrets/old/api_key"),
        sh("rm -r /etc/gpurack/secrets/old"),
        ("secrets",),
        "secrets/old/api_key: expected no files of a model that is not in the inventory",
        mended=True,
    ),
    Drift(
        "key-in-compose-yaml",
        sh(f'cp -a {COMPOSE} {COMPOSE}.was; echo "# $(cat {SECRET})" >> {COMPOSE}'),
        back(COMPOSE),
        ("secrets",),
        "the secret gamma api_key: expected nowhere but in its file, found in /etc/gpurack/compose.yaml",
    ),
    Drift(
        "key-in-arguments",
        sh(background(f'exec -a "client $(cat {SECRET})" sleep 300')),
        sh(f"kill $(cat {WAS})"),
        ("secrets",),
        "found in the arguments of process",
    ),
    Drift(
        "key-in-docker-inspect",
        sh(f'docker create --name by-hand -e KEY="$(cat {SECRET})" {IMAGES}:server-b7000'),
        sh("docker rm by-hand"),
        ("secrets",),
        "found in docker inspect by-hand",
    ),
    # models
    Drift(
        "model-nobody-asked-for",
        # as left by a killed run: Compose's labels, and an entry without id in the record
        sh(
            f"docker create --name old --label gpurack.model={{}} --label com.docker.compose.project=gpurack "
            f"--label com.docker.compose.service=old {IMAGES}:server-b7000; {RECORDED}"
        ),
        sh("docker rm old"),
        ("only_our_models",),
        "old: expected no such model in the inventory, found a container, created",
        mended=True,
    ),
    Drift(
        "model-stopped",
        sh("docker stop gamma"),
        sh(f"docker start gamma; {answers('gamma')}"),
        ("gamma runs", *down("gamma")),
        "container: expected running, found exited",
    ),
    Drift(
        "model-paused",
        sh("docker pause gamma"),
        sh("docker unpause gamma"),
        ("gamma runs", *down("gamma")),
        "expected running, found paused\n.* docker unpause gamma",
    ),
    Drift(
        "model-hangs",
        sh("kill -STOP $(docker inspect -f '{{.State.Pid}}' delta)"),
        sh("kill -CONT $(docker inspect -f '{{.State.Pid}}' delta)"),
        down("delta"),
        "GET /v1/models: expected HTTP 200, found nothing in 5 s",
    ),
    Drift(
        "container-gone",
        sh("docker rm -f delta"),
        sh(up("delta")),
        ("delta runs", *down("delta")),
        "container: expected running, found no container with this name",
        mended=True,
    ),
    Drift(
        "restart-policy-changed",
        sh("docker update --restart no gamma"),
        sh("docker update --restart unless-stopped gamma"),
        ("gamma runs",),
        "restart policy: expected unless-stopped, found no",
    ),
    Drift(
        "image-retagged",
        sh(f"docker tag {IMAGES}:server-b7000 kept && tar cT /dev/null | docker import - {IMAGES}:server-b7000"),
        sh(f"docker rmi {IMAGES}:server-b7000; docker tag kept {IMAGES}:server-b7000; docker rmi kept"),
        ("gamma image", "delta image"),
        "server-b7000 is [0-9a-f]{12} now\n.* docker pull",
    ),
    Drift(
        "another-image",
        both(
            sh(f"docker pull -q {IMAGES}:server-b7001"),
            compose("gamma", lambda service: service.update(image=f"{IMAGES}:server-b7001")),
        ),
        taken_back("gamma"),
        ("gamma image", "gamma definition"),
        "image: expected .*:server-b7000, found .*:server-b7001",
    ),
    Drift(
        "published-on-0.0.0.0",
        compose("gamma", lambda service: service["ports"][0].update(host_ip="0.0.0.0")),
        taken_back("gamma"),
        ("gamma bound", "gamma definition"),
        "published: expected 127.0.0.1:8000, found 0.0.0.0:8000",
        mended=True,
    ),
    Drift(
        "listened-to-elsewhere",
        sh(background("exec python3 -m http.server --bind 127.0.0.2 8000") + f"; {LISTENS}"),
        sh(f"kill $(cat {WAS})"),
        ("gamma bound",),
        "port 8000: expected only 127.0.0.1:8000, found also python3 .* on 127.0.0.2:8000",
    ),
    Drift(
        "other-flags",
        compose("delta", lambda service: service["command"].extend(["--ctx-size", "512"])),
        taken_back("delta"),
        ("delta definition",),
        "command: expected … nothing more, found … --ctx-size 512",
    ),
    Drift(
        "another-models-weights-behind-the-name",
        compose("delta", lambda service: service["volumes"][0].update(source="/srv/other.gguf")),
        taken_back("delta"),
        ("delta definition",),
        "mounted at /weights/delta.gguf: expected /srv/delta.gguf, found /srv/other.gguf",
    ),
    Drift(
        "under-another-name",
        compose("delta", lambda service: word(service, "--alias", "gpt-5")),
        taken_back("delta"),
        ("delta definition", "delta ready", "delta answers"),
        'GET /v1/models: expected the name "delta", found .*gpt-5',
    ),
    Drift(
        "open-to-all",
        compose("gamma", without_key),
        taken_back("gamma"),
        ("gamma definition", "gamma refuses_a_wrong_key"),
        "a request with wrong key: expected HTTP 401, found HTTP 200",
    ),
    # weights
    Drift(
        "one-bit-of-the-weights-flipped",
        sh(flip(weights_of("gamma"), SAME_TIME)),
        sh(flip(weights_of("gamma"), SAME_TIME)),
        ("gamma weights_hashed",),
        "expected sha256 [0-9a-f]{16}…, found [0-9a-f]{16}…",
        deep=True,
    ),
    Drift(
        "weights-written-to",
        sh(f"for f in {weights_of('gamma')}; do stat -c %y $f >{WAS}; touch $f; done"),
        sh(f'for f in {weights_of("gamma")}; do touch -d "$(cat {WAS})" $f; done'),
        ("gamma weights",),
        "gamma.gguf: expected unchanged since .*, found changed",
    ),
    Drift(
        "weights-cut-short",
        sh(f"for f in {weights_of('gamma')}; do cp -a $f {WAS}; truncate -s -100 $f; done"),
        sh(f"for f in {weights_of('gamma')}; do cat {WAS} >$f; touch -r {WAS} $f; done"),
        ("gamma weights",),
        r"expected (\d+) bytes, as when it was checked, found \d+ bytes",
    ),
    Drift(
        "weights-by-path-changed-under-the-model",
        sh(f"cp -a {PATH_WEIGHTS} {WAS}; touch {PATH_WEIGHTS}"),
        sh(f"touch -r {WAS} {PATH_WEIGHTS}"),
        ("delta weights",),
        "expected no change since its model started, found changed ",
    ),
    Drift(
        "weights-replaced-under-the-model",
        sh(f"mv {PATH_WEIGHTS} {WAS}; cp -p {WAS} {PATH_WEIGHTS}"),
        sh(f"mv {WAS} {PATH_WEIGHTS}"),
        ("delta weights",),
        "/srv/delta.gguf: expected the file that its container has, found a different file, put there later",
    ),
    Drift(
        "weights-gone",
        sh(f"mv {PATH_WEIGHTS} {WAS}"),
        sh(f"mv {WAS} {PATH_WEIGHTS}"),
        ("delta weights",),
        "/srv/delta.gguf: expected weights, found nothing",
    ),
]


def on_card(card: int) -> Callable[[Host], None]:
    """alpha on another GPU, by hand."""

    def act(host: Host) -> None:
        uuid = host.gpus.uuids[card]

        def change(service: dict[str, Any]) -> None:
            devices = service["deploy"]["resources"]["reservations"]["devices"][0]
            devices["device_ids"] = [f"nvidia.com/gpu={uuid}"]

        compose("alpha", change)(host)

    return act


def every_card(service: dict[str, Any]) -> None:
    """Give it all GPUs."""
    service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] = ["nvidia.com/gpu=all"]


def act(what: str, *arguments: object) -> Act:
    """A change of the simulated GPUs."""
    return lambda host: getattr(host.gpus, what)(*arguments)


def dpkg(package: str, version: str) -> Act:
    """Install one package alone, ignoring its dependencies."""
    file = f"{package}_{version}_*.deb"
    fetched = f"cd /tmp && apt-get -qq download {package}={version}"
    return sh(f"{fetched} && dpkg --force-all -i {file} && rm {file} && apt-mark hold {package}")


CTK = "/usr/bin/nvidia-ctk"
ON_GPU3 = [
    Drift(
        "model-on-the-wrong-card",
        on_card(3),
        taken_back("alpha"),
        ("alpha gpus", "alpha definition"),
        "GPUs seen inside: expected GPU-",
        mended=True,
    ),
    Drift(
        "model-on-all-cards",
        compose("alpha", every_card),
        taken_back("alpha"),
        ("alpha gpus", "alpha definition"),
        "GPUs given by Docker: expected GPU-[0-9a-f-]{36}, found all",
    ),
    Drift(
        "model-without-its-card",
        compose("beta", lambda service: service.pop("deploy")),
        taken_back("beta"),
        ("beta gpus", "beta definition"),
        "GPUs given by Docker: .* found none",
        mended=True,
    ),
    Drift(
        "cdi-spec-missing",
        sh(f"mv /run/cdi/nvidia.yaml {WAS}"),
        sh(f"mv {WAS} /run/cdi/nvidia.yaml"),
        ("cdi_devices",),
        "CDI: expected a device for each of 4 GPUs, found none for GPU-",
        mended=True,
    ),
    Drift(
        "cdi-spec-of-other-nodes",
        sed("/run/cdi/nvidia.yaml", "s/nvidia2/nvidia7/"),
        back("/run/cdi/nvidia.yaml"),
        ("cdi_devices",),
        "CDI: expected existing device nodes, found no /dev/nvidia7",
    ),
    Drift(
        "runtime-removed",
        daemon(lambda said: said.pop("runtimes"), "systemctl reload docker"),
        back(DAEMON, "systemctl reload docker"),
        ("daemon_json",),
        "daemon.json runtimes: expected .*nvidia-container-runtime.*, found nothing",
        mended=True,
    ),
    Drift(
        "toolkit-package-downgraded",
        dpkg("libnvidia-container1", "1.19.1-1"),
        dpkg("libnvidia-container1", "1.20.1-1"),
        ("packages", "toolkit"),
        "expected four packages of one version, found .*libnvidia-container1 1.19.1-1",
        mended=True,
    ),
    Drift(
        "toolkit-program-of-another-version",
        sh(f"mv {CTK} {WAS}; printf '#!/bin/sh\\necho CLI version 1.17.0\\n' >{CTK}; chmod 755 {CTK}"),
        sh(f"mv {WAS} {CTK}"),
        ("toolkit",),
        "nvidia-ctk: expected 1.20.1, as its package, found 1.17.0",
    ),
    Drift(
        "toolkit-hold-removed",
        sh("apt-mark unhold nvidia-container-toolkit"),
        sh("apt-mark hold nvidia-container-toolkit"),
        ("holds",),
        "nvidia-container-toolkit: expected held",
        mended=True,
    ),
    Drift(
        "toolkit-repository-gone",
        sh(f"mv {SOURCES}/gpurack-nvidia-container-toolkit.sources {WAS}"),
        sh(f"mv {WAS} {SOURCES}/gpurack-nvidia-container-toolkit.sources"),
        ("repositories",),
        "nvidia-container-toolkit.sources: .* found no file",
        mended=True,
    ),
    Drift(
        "driver-and-library-differ",
        act("mismatch"),
        act("reset"),
        ("driver",),
        "nvidia-smi: expected an answer, found .*mismatch",
    ),
    Drift(
        "card-lost",
        act("lose", 3),
        act("reset"),
        ("driver", "gpus"),
        "GPU GPU-.* expected an answer from nvidia-smi, found none",
    ),
]
