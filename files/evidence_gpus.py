"""GPUs: what the kernel, nvidia-smi and CDI specs say, and who computes on them.

A part of evidence.py, by which verification inspects a host.
"""

import glob
import os
import re

from evidence_parts import content, run

FIELDS = "index,uuid,name,memory.total,memory.used,driver_version,mig.mode.current,pci.bus_id"
ROW = re.compile(r"(,[^,]*){7}|^ *[0-9]+, *(GPU-|[0-9A-Fa-f]{8}-)")  # the second: of a row that is cut short


def cards():
    """What the kernel, nvidia-smi and the CDI specs say of the host's cards."""
    version = content("/proc/driver/nvidia/version")
    kernel = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", version or "")
    known = {}
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        text = content(path) or ""
        if re.search(r"(?m)^GPU Excluded:\s*Yes", text):  # by the module's NVreg_ExcludedGpus
            continue
        # of a GPU that the kernel has not initialised it is GPU-????????-…
        uuid = re.search(r"(?m)GPU UUID:\s*([A-Za-z0-9-]+)\s*$", text)
        known[path.split("/")[-2]] = uuid.group(1) if uuid else ""
    wsl = os.path.exists("/dev/dxg")  # instead of the usual driver
    if version is None and not known and not wsl:
        return None
    fields, form = FIELDS + ",compute_cap", "--format=csv,noheader,nounits"
    code, out = run("nvidia-smi", "--query-gpu=" + fields, form)
    if code == 2:  # drivers before 510 do not know compute_cap
        fields = FIELDS
        code, out = run("nvidia-smi", "--query-gpu=" + fields, form)
    rows = [line for line in out.splitlines() if ROW.search(line)]
    if code and len(rows) < len(known):  # one lost GPU fails them all; the others answer when they are asked alone
        each = [run("nvidia-smi", "-i", place, "--query-gpu=" + fields, form)[1].splitlines() for place in known]
        rows = [line for lines in each for line in lines if ROW.search(line)] or rows
    in_mig_mode = any(", Enabled, " in row for row in rows)
    return {
        "kernel": kernel.group(1) if kernel else "",
        "wsl": wsl,
        "known": known,
        "exit_code": code,
        "message": ""
        if code == 0
        else " ".join(" ".join(line for line in out.splitlines() if not ROW.search(line)).split()),
        "fields": fields,
        "rows": rows,
        "instances": run("nvidia-smi", "-L")[1].splitlines() if in_mig_mode else [],
        "cdi": cdi(),
        "toolkit": (re.findall(r"version (\d+(?:\.\d+)+)", run("nvidia-ctk", "--version")[1]) or [""])[0],
    }


def processes():
    """[card, container, uid, MiB] of every process that computes.

    A container's id is in its cgroup's name, behind that of a container around it. In the slice of a user that user
    gives names as they like: its uid is said, None elsewhere.
    """
    found = []
    out = run("nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv,noheader,nounits")[1]
    for uuid, pid, used in re.findall(r"(?m)^((?:GPU-|MIG-|[0-9A-Fa-f]{8}-)[0-9A-Za-z/-]+),\s*(\d+),\s*(\d*)", out):
        cgroup = content("/proc/{}/cgroup".format(pid)) or ""
        container = (re.findall(r"[-/]([0-9a-f]{64})\b", cgroup) or [""])[-1]
        whose = re.search(r"/user-(\d{1,10})\.slice/", cgroup)
        uid = int(whose.group(1)) if whose else None
        found.append([uuid, container, uid, int(used) if used else None])  # MiB, unknown with MIG or unified memory
    return found


def amd():
    """AMD's GPUs by sysfs, as the kernel's compute driver (KFD) lists them; a node without gpu_id is a CPU."""
    cards = []
    for node in glob.glob("/sys/class/kfd/kfd/topology/nodes/*"):
        said = dict(line.split(" ", 1) for line in (content(node + "/properties") or "").splitlines() if " " in line)
        minor, place = int(said.get("drm_render_minor", 0)), int(said.get("location_id", 0))
        if int(content(node + "/gpu_id") or 0) and minor:
            device = "/sys/class/drm/renderD{}/device/".format(minor)
            domain, unique = int(said.get("domain", 0)), int(said.get("unique_id", 0))
            place = "{:04x}:{:02x}:{:02x}.{}".format(domain, place >> 8 & 255, place >> 3 & 31, place & 7)
            path = "/dev/dri/renderD{}".format(minor)
            own = int(content(device + "mem_info_vram_total") or 0)
            cards.append(
                {
                    "node": path,
                    "gid": os.stat(path).st_gid if os.path.exists(path) else 0,
                    "pci": place,
                    "unique": "GPU-{:016x}".format(unique) if unique else "",
                    "name": (content(device + "product_name") or "").strip(),
                    "memory": max(own, banks(node)) >> 20 or None,
                }
            )
    return {"kfd_gid": os.stat("/dev/kfd").st_gid if os.path.exists("/dev/kfd") else 0, "cards": cards}


def banks(node):
    """The memory that ROCm sees of a GPU, in bytes: for one in a CPU also the host's."""
    texts = [content(one) or "" for one in glob.glob(node + "/mem_banks/*/properties")]
    found = [dict(re.findall(r"(?m)^(\w+) (\d+)$", text)) for text in texts]
    return sum(int(one.get("size_in_bytes", 0)) for one in found if one.get("heap_type") in ("1", "2"))


def cdi():
    """The devices of kind nvidia.com/gpu that a CDI spec names, and what of theirs is missing.

    Missing are device nodes, and files such as libraries and programs.
    """
    devices, lost = set(), set()
    for path in glob.glob("/etc/cdi/*") + glob.glob("/run/cdi/*"):
        text = content(path) or "" if path.endswith((".yaml", ".json")) else ""  # CDI reads no others
        kinds, names, paths = of_spec(text)
        if "nvidia.com/gpu" in kinds:
            devices |= names
            lost |= {one for one in paths if not os.path.exists(one)}
    nodes = {one for one in lost if one.startswith("/dev/")}
    return {"devices": sorted(devices), "missing": sorted(nodes), "gone": sorted(lost - nodes)}


def of_spec(text):
    """A spec's kind, the names of its devices, and its paths on the host.

    Of a node that has a hostPath beside its path, that one. The items of YAML and JSON become lines `key:value`, each
    item after a line that begins with "-" or ";".
    """
    text = re.sub(r"(?m)^\s*#.*$|^([^{\n]*?)\s#.*$", r"\1", text)  # without comments of YAML
    plain = re.sub(r"[{}]", "\n;\n", re.sub(r"[\"'\\ \t\r]", "", text))
    kinds, names, paths, item = set(), set(), set(), {}
    for line in re.split(r"[\n,\[\]]", plain) + [";"]:
        if line[:1] in ("-", ";"):
            paths.add(item.get("hostPath") or item.get("path"))
            item = {}
        key, _, value = (line[1:] if line[:1] == "-" else line).partition(":")
        if key in ("path", "hostPath") and value[:1] == "/":
            item[key] = value
        elif key in ("kind", "name"):
            (kinds if key == "kind" else names).add(value)
    return kinds, names, paths - {None}
