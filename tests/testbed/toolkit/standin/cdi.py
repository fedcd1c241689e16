"""CDI: what the simulated driver shows as edits to a container, and the specs in the spec folders.

The cards are asked of `nvidia-smi`, as the real programs ask NVML: what it cannot say, these cannot.
"""

import json
import os
import re
import subprocess

from golang import Failure

NVIDIA_SMI = "/usr/bin/nvidia-smi"
#: Real specs mount it by its version and let hooks make the link and the cache of ld.so; Debian images need neither.
LIBCUDA = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
#: The simulated driver's state: where it lies on the host, and where nvidia-smi looks for it in a container. The
#: folder, since the file in it is replaced whenever something changes.
STATE_FOLDER = ("/run/gpusim", "/usr/share/gpusim")
#: The schema that real specs have from 1.19.1 on (dockerd >= 26.1 reads it).
CDI_VERSION = "0.7.0"

DEV = "/dev"
#: What every container gets that gets any card. The first is the driver's own, the others are CUDA's.
CONTROL_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")

_NVML = {9: "Driver Not Loaded", 18: "Driver/library version mismatch", 255: "Unknown Error"}


class Card:
    """One card as nvidia-smi lists it."""

    def __init__(self, index, uuid):
        self.index = index
        self.uuid = uuid

    @property
    def node(self):
        return f"/dev/nvidia{self.index}"


def cards():
    """All cards, by index. Raises Failure with NVML's words where there is no (working) driver."""
    if not os.access(NVIDIA_SMI, os.X_OK):
        raise Failure("failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND")
    answer = subprocess.run(
        [NVIDIA_SMI, "--query-gpu=index,uuid", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode in _NVML:
        raise Failure(f"failed to initialize NVML: {_NVML[answer.returncode]}")
    if answer.returncode == 15:
        raise Failure("failed to get device handle from index: GPU is lost")
    if answer.returncode not in (0, 6):
        raise Failure(f"failed to initialize NVML: nvidia-smi exits {answer.returncode}: {answer.stdout.strip()}")
    found = [line.split(", ") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    return [Card(index, uuid) for index, uuid in found]


def common_edits():
    """What every container gets that gets any card."""
    options = ["ro", "nosuid", "nodev", "rbind", "rprivate"]
    # Of what lies in /run real specs say noexec, too: a user namespace may not mount it without.
    state = [*options, "noexec"]
    return {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": f"/dev/{name}"} for name in present_control_nodes()],
        "mounts": [
            {"hostPath": NVIDIA_SMI, "containerPath": "/usr/bin/nvidia-smi", "options": options},
            {"hostPath": LIBCUDA, "containerPath": LIBCUDA, "options": options},
            {"hostPath": STATE_FOLDER[0], "containerPath": STATE_FOLDER[1], "options": state},
        ],
    }


def present_control_nodes():
    """A spec names only the nodes that exist when it is made."""
    return sorted(name for name in CONTROL_NODES if os.path.exists(f"{DEV}/{name}"))


def make_control_nodes():
    """Make the nodes that are missing, with the simulated driver's number. OSError where no driver is loaded."""
    number = os.stat(f"{DEV}/{CONTROL_NODES[0]}").st_rdev
    for name in CONTROL_NODES[1:]:
        if not os.path.exists(f"{DEV}/{name}"):
            os.mknod(f"{DEV}/{name}", 0o20666, number)
            os.chmod(f"{DEV}/{name}", 0o666)


def spec(vendor="nvidia.com", device_class="gpu", strategies=("index", "uuid"), all_device=True):
    """The whole spec: each card under its names, and all of them as `all`."""
    present = cards()
    devices = []
    for card in present:
        for strategy in strategies:
            name = {"index": card.index, "uuid": card.uuid, "type-index": f"gpu{card.index}"}.get(strategy)
            if name is None:
                raise Failure(f"failed to create device namer: invalid device name strategy: {strategy}")
            devices.append({"name": name, "containerEdits": {"deviceNodes": [{"path": card.node}]}})
    devices.sort(key=lambda device: device["name"])
    if all_device and present:
        nodes = [{"path": card.node} for card in present]
        devices.append({"name": "all", "containerEdits": {"deviceNodes": nodes}})
    if not devices:
        raise Failure("invalid device, empty device edits")
    return {
        "cdiVersion": CDI_VERSION,
        "kind": f"{vendor}/{device_class}",
        "devices": devices,
        "containerEdits": common_edits(),
    }


def to_yaml(value):
    """The lines of a YAML document: block style, strings quoted where they would read as something else."""
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, (dict, list)):
                lines += [f"{key}:", *("    " + line for line in to_yaml(item))]
            else:
                lines.append(f"{key}: {_yaml_scalar(item)}")
        return lines
    for item in value:
        first, *rest = to_yaml(item) if isinstance(item, dict) else [_yaml_scalar(item)]
        lines += [f"- {first}", *("  " + line for line in rest)]
    return lines


def _yaml_scalar(text):
    plain = re.fullmatch(r"[A-Za-z/][\w./=-]*", text, re.ASCII) and text not in (
        "true",
        "false",
        "null",
        "yes",
        "no",
    )
    return text if plain else json.dumps(text)


# --- specs on disk -------------------------------------------------------------------------------------


def read_specs(folders):
    """(specs, errors): every .yaml and .json file in these folders; a folder that is not there is none."""
    specs, errors = [], {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            if not name.endswith((".yaml", ".json")) or not os.path.isfile(path):
                continue
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read()
                found = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
                _check(found)
            except (OSError, ValueError) as error:
                errors[path] = f'failed to load CDI Spec "{path}": {error}'
            else:
                specs.append(found)
    return specs, errors


def device_names(specs):
    """Qualified names, sorted and without repeats."""
    return sorted({f"{found['kind']}={device['name']}" for found in specs for device in found["devices"]})


def _check(found):
    if not isinstance(found, dict) or not found.get("cdiVersion"):
        raise ValueError("missing cdiVersion")
    kind = found.get("kind")
    if not isinstance(kind, str) or not re.fullmatch(r"[A-Za-z][\w.-]*/[A-Za-z][\w.-]*", kind, re.ASCII):
        raise ValueError(f'invalid kind "{kind}"')
    devices = found.get("devices")
    if not isinstance(devices, list) or not devices:
        raise ValueError("invalid spec, no devices")
    for device in devices:
        name = device.get("name") if isinstance(device, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.:-]*", name, re.ASCII):
            raise ValueError(f'invalid device name "{name}"')
        if not device.get("containerEdits"):
            raise ValueError(f'invalid device, empty device edits: "{name}"')


def _yaml(text):
    """The YAML that CDI specs are written in: block maps and lists, flow lists of scalars, quoted strings."""
    lines = []
    for line in text.splitlines():
        body = line.split(" #")[0].rstrip()
        if body.strip() and not body.lstrip().startswith("#") and body.strip() != "---":
            if "\t" in body[: len(body) - len(body.lstrip())]:
                raise ValueError("yaml: found character that cannot start any token")
            lines.append([len(body) - len(body.lstrip()), body.lstrip()])
    if not lines:
        raise ValueError("empty file")
    value, rest = _yaml_block(lines, lines[0][0])
    if rest:
        raise ValueError(f"yaml: did not expect {rest[0][1]!r}")
    return value


def _yaml_block(lines, indent):
    if lines[0][1].startswith("- ") or lines[0][1] == "-":
        items = []
        while lines and lines[0][0] == indent and (lines[0][1].startswith("- ") or lines[0][1] == "-"):
            body = lines[0][1][1:]
            inner = body.lstrip()
            if not inner:
                lines = lines[1:]
                value, lines = _yaml_block(lines, lines[0][0])
            elif _yaml_key(inner):
                column = indent + 1 + len(body) - len(inner)
                value, lines = _yaml_block([[column, inner], *lines[1:]], column)
            else:
                value, lines = _yaml_value(inner), lines[1:]
            items.append(value)
        return items, lines
    result = {}
    while lines and lines[0][0] == indent:
        found = _yaml_key(lines[0][1])
        if not found:
            raise ValueError(f"yaml: could not find expected ':' in {lines[0][1]!r}")
        key, text = found
        lines = lines[1:]
        if text:
            result[key] = _yaml_value(text)
        elif lines and (lines[0][0] > indent or (lines[0][0] == indent and lines[0][1].startswith("-"))):
            result[key], lines = _yaml_block(lines, lines[0][0])
        else:
            result[key] = None
    if lines and lines[0][0] > indent:
        raise ValueError("yaml: bad indentation of a mapping entry")
    return result, lines


def _yaml_key(text):
    match = re.match(r"""("[^"]*"|'[^']*'|[^\s"'\[{-][^:]*|-[^\s:][^:]*):(?:\s+(.*))?$""", text)
    return (_yaml_value(match.group(1)), (match.group(2) or "").strip()) if match else None


def _yaml_value(text):
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("yaml: did not find expected ',' or ']'")
        return [_yaml_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
    if text.startswith("{"):
        if text != "{}":
            raise ValueError("yaml: flow maps are not supported by this stand-in")
        return {}
    if text[0] in "\"'":
        if len(text) < 2 or text[-1] != text[0]:
            raise ValueError("yaml: found unexpected end of stream")
        return json.loads(text) if text[0] == '"' else text[1:-1].replace("''", "'")
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": True, "false": False, "null": None, "~": None}.get(text, text)
