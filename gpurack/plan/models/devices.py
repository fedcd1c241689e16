"""Which GPUs a container gets, what they are, and how Compose assigns them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpurack.engines.container import Accelerator
from gpurack.facts.model import HostFacts
from gpurack.plan.models.compatibility import accelerator
from gpurack.plan.models.slots import slots_of
from gpurack.plan.system.cdi_specs import device_names
from gpurack.plan.system.gpu_access import access
from gpurack.spec.gpu_access import Access
from gpurack.spec.host import Host
from gpurack.spec.model import Job, Model

KFD = "/dev/kfd"
"""AMD's compute driver. All its GPUs share the device."""


@dataclass(frozen=True)
class Devices:
    """The GPUs of an entry.

    accelerator: what it computes on. nodes: AMD's device nodes → the group that may open each. kfd_gid: the group of
    /dev/kfd. access: how containers get NVIDIA's GPUs on this host. smallest: GiB of the smallest GPU whose memory is
    known, 0 if none is known, None without GPUs. names: what CDI specs call the GPUs.
    """

    uuids: tuple[str, ...]
    accelerator: Accelerator
    nodes: Mapping[str, int]
    kfd_gid: int
    access: Access
    smallest: float | None
    names: tuple[str, ...] = ()

    @property
    def nvidia_access(self) -> Access | None:
        """How the container gets NVIDIA's GPUs; None if it gets none."""
        return self.access if self.uuids and not self.nodes else None

    def words(self, drawing: bool) -> dict[str, Any]:
        """Return the keys of a Compose service that assign the GPUs.

        drawing: also give the driver's graphics libraries. CDI and AMD's nodes always include them.
        """
        if self.nodes:
            # by number, because the image may not know the host's groups
            groups = [str(gid) for gid in sorted({self.kfd_gid, *self.nodes.values()})]
            return {"devices": [KFD, *self.nodes], "group_add": groups}
        if not self.uuids:
            return {}
        how = self.access
        environment = {"NVIDIA_DRIVER_CAPABILITIES": "compute,graphics,utility"} if drawing and how != "cdi" else {}
        if how == "cdi" and self.names != self.uuids:  # the container gets all GPUs of WSL
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.uuids)
        if how == "runtime":
            return {"runtime": "nvidia", "environment": {"NVIDIA_VISIBLE_DEVICES": ",".join(self.uuids), **environment}}
        driver, prefix = ("cdi", "nvidia.com/gpu=") if how == "cdi" else ("nvidia", "")
        devices = [f"{prefix}{name}" for name in (self.names if how == "cdi" else self.uuids)]
        reservation = {"driver": driver, "device_ids": devices, "capabilities": ["gpu"]}
        given = {"deploy": {"resources": {"reservations": {"devices": [reservation]}}}}
        return {**given, "environment": environment} if environment else given

    def memory_fraction(self, entry: Model) -> float | None:
        """Return a model's share of its smallest GPU; None for the whole GPU, or if its memory is unknown."""
        if entry.vram is None or self.smallest is None:
            return None
        if not self.smallest:  # offline, where the inventory has no `hardware`
            return entry.vram.fraction
        return round(entry.vram.of(self.smallest) / self.smallest, 3)


def devices(entry: Model | Job, uuids: tuple[str, ...], spec: Host, facts: HostFacts) -> Devices:
    """Return the GPUs with these UUIDs, as an entry gets them on this host."""
    slots = slots_of(uuids, facts)
    return Devices(
        uuids,
        accelerator(entry, slots, facts.arch),
        render_nodes(uuids, facts),
        facts.kfd_gid,
        access(spec, facts),
        min((slot.memory for slot in slots if slot.memory), default=0.0 if slots else None),
        device_names(uuids, facts),
    )


def render_nodes(uuids: Sequence[str], facts: HostFacts) -> dict[str, int]:
    """Return the device nodes of AMD's GPUs → the group that may open each; {} for NVIDIA's."""
    return {gpu.node: gpu.gid for gpu in facts.gpus if gpu.uuid in uuids and gpu.vendor == "amd"}
