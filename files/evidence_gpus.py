"""GPUs: what the kernel, nvidia-smi and CDI specs say, and who computes on them.

A part of evidence.py, by which verification inspects a host.
"""

import glob
import os
import re

from evidence_parts import content, run


def cards():
    """What the kernel, nvidia-smi and the CDI specs say of the host's cards."""
    version = content("/proc/driver/nvidia/version")
    kernel = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", version or "")
    known = {}
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        uuid = re.search(r"GPU UUID:\s*(\S+)", content(path) or "")
        known[path.split("/")[-2]] = uuid.group(1) if uuid else ""
    wsl = os.path.exists("/dev/dxg")  # instead of the usual driver
    if version is None and not known and not wsl:
        return None
    fields, rows = "index,uuid,name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"
    asked = ("--query-gpu=" + fields + ",compute_cap", rows)
    code, out = run("nvidia-smi", *asked)
    if code == 2:  # drivers before 510 do not know compute_cap
        asked = ("--query-gpu=" + fields, rows)
        code, out = run("nvidia-smi", *asked)
        out = re.sub(r"$", ", ", out.rstrip(), flags=re.M)
    lines = said = out.splitlines()
    if code:  # one lost GPU fails them all; the others answer when they are asked alone
        lines = [line for place in known for line in run("nvidia-smi", "-i", place, *asked)[1].splitlines()]
    answering = [[part.strip() for part in line.split(",")] for line in lines if "GPU-" in line]
    # a name may have commas
    answering = [card[:2] + [", ".join(card[2:-4])] + card[-4:] for card in answering if len(card) > 6]
    modes = run("nvidia-smi", "--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")[1]
    in_mig_mode = re.findall(r"^(GPU-[0-9a-f-]+), Enabled\s*$", modes, re.M)
    return {
        "kernel": kernel.group(1) if kernel else "",
        "wsl": wsl,
        "known": known,
        "exit_code": code,
        "message": "" if code == 0 else " ".join(" ".join(line for line in said if "GPU-" not in line).split()),
        "answering": answering,
        "mig": {"on": in_mig_mode, "listed": run("nvidia-smi", "-L")[1].splitlines() if in_mig_mode else []},
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
    for uuid, pid, used in re.findall(r"((?:GPU|MIG)-[0-9A-Za-z/-]+),\s*(\d+),\s*(\d*)", out):
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
    devices, missing, gone = [], [], []
    for path in glob.glob("/etc/cdi/*") + glob.glob("/run/cdi/*"):
        text = content(path) or ""
        if re.search(r"\"?kind\"?\s*:\s*\"?nvidia\.com/gpu", text):
            devices += re.findall(r"\"?name\"?\s*:\s*\"?([\w-]+)", text)
            nodes = re.findall(r"\"?path\"?\s*:\s*\"?(/dev/[\w/-]+)", text)
            missing += [node for node in nodes if not os.path.exists(node)]
            files = re.findall(r"\"?hostPath\"?\s*:\s*\"?(/[^\s\"',}]+)", text)
            gone += [file for file in files if not os.path.exists(file)]
    return {"devices": sorted(set(devices)), "missing": sorted(set(missing)), "gone": sorted(set(gone) - set(missing))}
