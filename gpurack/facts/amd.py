"""AMD GPUs in the snapshot's output. Pure.

Sources: the kernel's amdkfd driver (kfd_topology.c for the properties of a node, kfd_process.c for proc/PID/vram_GPUID
in bytes) and the kernel page "Misc AMDGPU driver information" (mem_info_vram_*, product_name, unique_id). ROCm's UUID
of a GPU is "GPU-" and its unique id in 16 hex digits. KFD does not list processes of OpenGL or Vulkan, but `used`
includes their memory. Of a GPU in a CPU, ROCm uses the host's memory where there is more of it than the GPU's own
(amdgpu_ttm.c: apu_prefer_gtt), and KFD's memory banks have that size.
"""

import re
from collections.abc import Sequence

from gpurack.facts.gpus import Gpu, GpuProcess

MIB = 1 << 20


def gpus(lines: Sequence[str]) -> list[Gpu]:
    """Parse the lines `card gpu_id 42700|gid 993|total 68702699520|…`.

    The index of a GPU is its position by PCI address, as amd-smi numbers GPUs.
    """
    found = sorted(_described(lines), key=lambda said: (_pci(said), number(said["drm_render_minor"])))
    return [
        Gpu(
            index=index,
            uuid=_uuid(said),
            name=said.get("name", ""),
            memory_total=_mib(said.get("banks" if _shares(said) else "total", "")),
            memory_used=_mib(said.get("gtt" if _shares(said) else "used", "")),
            driver="",
            compute="",
            pci=_pci(said),
            utilization=number(busy) if (busy := said.get("busy", "")).isdigit() else None,
            vendor="amd",
            node=f"/dev/dri/renderD{number(said['drm_render_minor'])}",
            gid=number(said.get("gid", "")),
        )
        for index, said in enumerate(found)
    ]


def processes(lines: Sequence[str]) -> list[GpuProcess]:
    """Parse the lines `process gpu_id,pid,bytes,user,container,name`. The name may contain any character."""
    uuids = {said.get("gpu_id", ""): _uuid(said) for said in _described(lines)}
    found = []
    for line in lines:
        form = r"process (\d+),(\d{1,10}),(\d*),([^,]*),(?:(\d{1,10}):)?([0-9a-f]{64})?,(.*)"
        match = re.fullmatch(form, line)
        if match:
            card, pid, used, user, whose, container, name = (group or "" for group in match.groups())
            held = uuids.get(card, ""), int(pid), name, _mib(used), user.strip(), container, int(whose or 0) or None
            found.append(GpuProcess(*held))
    return found


def _described(lines: Sequence[str]) -> list[dict[str, str]]:
    """Return the properties of each GPU that has a render node."""
    found = [
        dict(item.partition(" ")[::2] for item in line.removeprefix("card ").split("|"))
        for line in lines
        if line.startswith("card ")
    ]
    return [said for said in found if number(said.get("drm_render_minor", ""))]


def _uuid(said: dict[str, str]) -> str:
    """Return the UUID as ROCm writes it, or the PCI address of a GPU without a unique id."""
    unique = number(said.get("unique_id", ""))
    return f"GPU-{unique:016x}" if unique else _pci(said)


def _pci(said: dict[str, str]) -> str:
    """Return the PCI address. `location_id` holds bus (8 bits), device (5 bits) and function (3 bits).

    >>> _pci({"domain": "0", "location_id": "768"})
    '0000:03:00.0'
    """
    place = number(said.get("location_id", ""))
    return f"{number(said.get('domain', '')):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"


def _shares(said: dict[str, str]) -> bool:
    """Does a GPU compute in the host's memory (GTT)? total: its own, which is small in a CPU. banks: what ROCm sees."""
    return number(said.get("banks", "")) > number(said.get("total", ""))


def _mib(size: str) -> int | None:
    """Convert bytes to MiB; None if unknown."""
    return number(size) // MIB if size.isdecimal() else None


def number(text: str) -> int:
    """Parse a number that the kernel printed; 0 for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else 0
