"""NVIDIA's GPUs and driver in the snapshot's output. Pure.

Sources: nvidia-smi(1) for values and exit codes; NVIDIA's open kernel modules (nv.c, nv-pci.c, osapi.c) for the
kernel's log. Values other than numbers ("[N/A]", "[Not Supported]", "[Unknown Error]") are unknown, never 0.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from gpurack.facts.gpus import CdiSpec, Details, Driver, Gpu, GpuProcess, Module, PciGpu, Xid
from gpurack.facts.lines import ID, Section, each, fields, pair, pairs, parse_time, word
from gpurack.spec.gpus import has_own_memory

ROW = (
    "index", "uuid", "name", "memory.total", "memory.used", "driver_version", "compute_cap", "mig.mode.current",
    "pci.bus_id", "utilization.gpu",
)  # fmt: skip
"""The columns of nvidia-smi's CSV if the section does not begin with `fields …`."""
UUID = r"GPU-[A-Za-z0-9-]+|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
"""A GPU's UUID. Jetsons print it without "GPU-"."""
ADDRESS = r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]"
CUT_SHORT = rf"(\d{{1,4}}), *({UUID})(?:,([^,]*))?(?:,.*)?"
"""A row of nvidia-smi that ended early, with index, UUID and perhaps name."""
COLUMNS = 8
"""A row with fewer columns is cut short, or no row."""
XID_ADDRESS = r"(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}(?:\.[0-7])?"
"""A PCI address as Xids have it: usually without function, in old drivers also without domain."""
NONE = ("[N/A]", "N/A", "[Not Supported]")
"""What the driver prints for memory of a GPU that has none of its own."""
UNKNOWN = ("N/A", "Not Supported", "None", "ERR!", "Unknown Error")
"""Texts for values that a GPU does not have, or that are unknown, without brackets. In brackets, any text is one."""
DEAD = {"GPU requires reset": "requires reset", "GPU is lost": "is lost"}
"""Values of a column, without brackets, that say that nothing can compute on the GPU (NVML errors 16 and 15)."""
JETSON = "belongs to a Jetson, which gpurack does not support"
FELL_OFF = 79
RECOVERY = re.compile(r"GPU recovery action changed from .* to 0x[0-9a-fA-F]+ \(([A-Za-z0-9 ]{1,40})\)")
"""In the line of Xid 154."""
NVLINK_5 = range(144, 151)
"""The Xids of NVLink 5, whose lines say `Fatal` or `Nonfatal`. Others have names of processes, which users choose."""
CALLER = r"(?: *\[ *[TC]\d{1,7}\])?"
"""The thread or CPU behind the time in the log of a kernel with CONFIG_PRINTK_CALLER."""
CONTINUED = re.compile(r"NVRM:\s+(\(PCI ID|installed in this|system has|(has )?fallen off the bus)")
"""How the sentence about a GPU that fell off the bus continues on another line of the kernel's log."""
SWITCHES = re.compile(r"0x(1ae8|1af[0-9a-f]|22a[0-9a-f])")
"""PCI device ids of NVSwitches (NVIDIA's open kernel modules: nvswitch.c). Other bridges of NVIDIA are none."""


def driver(sections: Mapping[str, Section]) -> Driver:
    """Build a Driver from the sections `driver`, `pci`, `gpus`, `nvidia`, `cdispecs` and `kernellog`."""
    get: Callable[[str], Section] = lambda name: sections.get(name, Section())  # noqa: E731
    version, host, rows = " ".join(get("driver")), get("nvidia"), get("gpus")
    kernel = re.search(r"(?:Kernel Module|Module for \S+)\s+(\d+(?:\.\d+)+)", version)
    code, message = failure(rows)
    # the kernel knows the UUID only while the GPU is initialised, and writes GPU-????????-… before
    card = r"/proc/driver/nvidia/gpus/([0-9A-Fa-f:.]+)/information\|(?:GPU-[?-]+|([A-Za-z0-9-]*))"
    libraries = [rest for key, rest in pairs(host) if key == "library" and re.fullmatch(r"\d+(\.\d+)+", rest)]
    return Driver(
        kernel=kernel[1] if kernel else "",
        exit_code=code,
        message=message,
        pci=dict(each(get("pci"), lambda line: pair(card, line))),
        xids=tuple(xids(get("kernellog"))),
        log=tuple(driver_log(get("kernellog"))),
        open=("Open Kernel Module" in version) if kernel else None,
        library=libraries[0] if libraries else "",
        running=word(host, "kernel"),
        modules=dict(each([rest for key, rest in pairs(host) if key == "module"], module)),
        secure_boot={"enabled": True, "disabled": False}.get(word(host, "secureboot")),
        bus=dict(each([rest for key, rest in pairs(host) if key == "card"], pci_gpu)),
        nouveau=bool(word(host, "nouveau")),
        switches=sum(key == "switch" and bool(SWITCHES.fullmatch(rest.split(" ")[-1])) for key, rest in pairs(host)),
        nvlink5=bool(word(host, "nvlink5")),
        platform=platform(host, rows, bool(kernel)),
        nodes=dict(each([rest for key, rest in pairs(host) if key == "node"], node)),
        majors=dict(each([rest for key, rest in pairs(host) if key == "major"], major)),
        specs=specs(get("cdispecs")),
    )


def failure(rows: Sequence[str]) -> tuple[int, str]:
    """Return the exit code of nvidia-smi and its own words from `exit 14|words`; (0, "") if it succeeded."""
    found = re.match(r"exit (\d{1,3})\|(.*)", rows[0]) if rows else None
    return (int(found[1]), found[2].strip()) if found else (0, "")


def platform(host: Sequence[str], rows: Sequence[str], kernel: bool) -> Literal["", "jetson", "wsl"]:
    """Return the kind of a host whose driver is not NVIDIA's usual one for Linux.

    A Jetson's GPU is an "nvgpu". Older ones have no nvidia-smi, only nodes of their own; Thor has the usual driver too.
    kernel: is the usual driver's module loaded?
    """
    listed = [line for line in rows if not line.startswith(("exit ", "fields "))]
    if any("(nvgpu)" in line for line in listed) or (("jetson", "yes") in pairs(host) and not (listed or kernel)):
        return "jetson"
    return "wsl" if ("wsl", "yes") in pairs(host) else ""


def pci_gpu(line: str) -> tuple[str, PciGpu]:
    """Parse `address device driver`.

    >>> pci_gpu("0000:17:00.0 0x20b7 nouveau")
    ('0000:17:00.0', PciGpu(device='0x20b7', driver='nouveau'))
    """
    address, device, by = fields(rf"({ADDRESS}) (0x[0-9a-f]{{4}}) ?([A-Za-z0-9_-]*)", line)
    return address, PciGpu(device, by)


def module(line: str) -> tuple[str, Module | None]:
    """Parse `kernel name|version|license|signer`, and `kernel` for a kernel without the module.

    >>> module("6.12.0-1-amd64 nvidia|580.95.05|Dual MIT/GPL|DKMS key")[1]
    Module(name='nvidia', version='580.95.05', open=True, signer='DKMS key')
    """
    kernel, name, version, licence, signer = fields(
        r"([A-Za-z0-9._+~-]+)(?: ([a-z0-9-]+)\|([0-9.]*)\|([^|]*)\|(.*))?", line
    )
    known = {"Dual MIT/GPL": True, "NVIDIA": False}.get(licence)
    return kernel, Module(name, version, known, signer.strip()) if name else None


def node(line: str) -> tuple[str, tuple[int, int]]:
    """Parse `path major minor`, the numbers in hex, as `stat` prints them.

    >>> node("/dev/nvidia-uvm 1fd 0")
    ('/dev/nvidia-uvm', (509, 0))
    """
    path, first, second = fields(r"(/dev/nvidia[A-Za-z0-9/_-]*) ([0-9a-f]{1,6}) ([0-9a-f]{1,6})", line)
    return path, (int(first, 16), int(second, 16))


def major(line: str) -> tuple[str, int]:
    """Parse `name major`."""
    name, number = fields(r"(nvidia[a-z-]*) (\d{1,6})", line)
    return name, int(number)


def specs(lines: Sequence[str]) -> dict[str, CdiSpec]:
    """Parse `spec PATH`, and below it `kind KIND`, `device NAME`, `node PATH MAJOR MINOR` and `gone PATH`.

    A number that the spec does not have is "-".
    """
    found: dict[str, CdiSpec] = {}
    path = ""
    for key, rest in pairs(lines):
        if key == "spec":
            path = rest
            found[path] = CdiSpec()
        elif path and key == "gone":
            found[path] = replace(found[path], gone=(*found[path].gone, rest))
        elif path and key == "kind":
            found[path] = replace(found[path], kind=rest)
        elif path and key == "device":
            found[path] = replace(found[path], devices=found[path].devices | {rest})
        elif path and key == "node" and (match := re.fullmatch(r"(/dev/\S+) (-|\d{1,6}) (-|\d{1,7})", rest)):
            numbers = tuple(None if text == "-" else int(text) for text in match.group(2, 3))
            found[path] = replace(found[path], nodes={**found[path].nodes, match[1]: (numbers[0], numbers[1])})
        elif isinstance(lines, Section):
            lines.wrong += 1
    return found


def xids(lines: Sequence[str]) -> list[Xid]:
    """Parse the GPU errors in the kernel's log, as `dmesg --time-format iso` prints them.

    A GPU can fall off the bus without a line of Xid 79. The driver says so in one to three lines (nv.c):

    >>> [(xid.pci, xid.number) for xid in xids([
    ...     "2026-11-20T02:11:09,1+00:00 NVRM: Xid (PCI:0000:e1:00): 31, pid=7",
    ...     "2026-11-20T02:11:09,1+00:00 NVRM: Xid (0000:03:00): 14, of an older driver",
    ...     "2026-11-20T02:11:09,1+00:00 NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.",
    ...     "2026-11-20T02:11:09,1+00:00 NVRM: The NVIDIA GPU 0000:19:00.0",
    ...     "                            NVRM: (PCI ID: 10de:26b5) installed in this system has",
    ...     "                            NVRM: fallen off the bus and is not responding to commands.",
    ... ])]
    [('0000:e1:00', 31), ('0000:03:00', 14), ('0000:18:00', 79), ('0000:19:00', 79)]
    """
    when = rf"(\S+?|\[[^\]\n]{{1,40}}\]){CALLER}\s+NVRM: "
    numbered = re.compile(rf"{when}Xid \((?:PCI:)?({XID_ADDRESS})(?: [^)]*)?\): (\d{{1,6}})\b.*")
    fell = re.compile(rf"{when}GPU ({ADDRESS}): GPU has fallen off the bus\b.*")
    named = re.compile(rf"{when}The NVIDIA GPU ({ADDRESS})")
    found: list[Xid] = []
    pending: tuple[str, str] | None = None
    for line in lines:
        if match := numbered.match(line):
            action = RECOVERY.search(line) if match[3] == "154" else None
            what, number = action[1] if action else "", int(match[3])
            fatal = number in NVLINK_5 and bool(re.search(r"\bFatal\b", line))
            found.append(Xid(bus_address(match[2]), number, parse_time(match[1]), what, fatal))
            pending = None
        elif match := fell.match(line):
            found.append(Xid(bus_address(match[2]), FELL_OFF, parse_time(match[1])))
            pending = None
        elif match := named.match(line):
            pending = (match[2], match[1])
        elif not CONTINUED.search(line):
            pending = None
        if pending and "fallen off the bus" in line:
            found.append(Xid(bus_address(pending[0]), FELL_OFF, parse_time(pending[1])))
            pending = None
    # the same fall can be in the log in several forms
    return list(dict.fromkeys(xid for n, xid in enumerate(found) if not repeated(xid, found[:n])))


def repeated(xid: Xid, before: Sequence[Xid]) -> bool:
    """Is it a fall off the bus that is in the log already?"""
    return xid.number == FELL_OFF and any((one.pci, one.number) == (xid.pci, xid.number) for one in before)


def bus_address(address: str) -> str:
    """Return a PCI address as most Xids have it: without function, the domain in four digits; "" for anything else.

    >>> bus_address("0000:18:00.0"), bus_address("18:00"), bus_address("0000000F:01:00.0"), bus_address("N/A")
    ('0000:18:00', '0000:18:00', '000f:01:00', '')
    """
    if not re.fullmatch(XID_ADDRESS, address):
        return ""
    domain, bus, device = ("0", *address.lower().partition(".")[0].split(":"))[-3:]
    return f"{domain.lstrip('0'):0>4}:{bus}:{device}"


def driver_log(lines: Sequence[str]) -> list[str]:
    """Return the driver's own sentences without Xids and falls, without time and prefix, each once."""
    form = re.compile(rf"(?:\S+?|\[ *\d+\.\d+\])?{CALLER}\s*(?:NVRM|nvidia-nvswitch\d*): (.*)")
    texts = (match[1].strip() for line in lines if (match := form.match(line)))
    return list(dict.fromkeys(text for text in texts if not text.startswith("Xid") and "fallen off" not in text))


def gpus(lines: Sequence[str], remapped: Sequence[str] = (), mig: Sequence[str] = ()) -> list[Gpu]:
    """Parse nvidia-smi's CSV, sorted by index, each GPU in MIG mode followed by its instances.

    The first line may be `fields index,uuid,…`, else the columns are ROW. A row that cannot be parsed costs only that
    GPU. remapped: rows `uuid, correctable, uncorrectable, pending, failure`. mig: the output of `nvidia-smi -L`.
    """
    said = next((line[7:] for line in lines if line.startswith("fields ")), "")
    names = tuple(said.split(",")) if said else ROW
    rows = [line for line in lines if not line.startswith(("fields ", "exit "))]
    remaps = {columns[0]: columns for line in remapped if len(columns := split_row(line)) >= 5}
    section = Section(line for line in rows if line.count(",") >= COLUMNS - 1)
    found = each(section, lambda line: gpu(columns_of(line, names), remaps))
    found += [cut for line in rows if line not in section and (cut := cut_short(line, names))]
    if isinstance(lines, Section):
        lines.wrong += section.wrong
    numbered = sorted(with_indices(found), key=lambda gpu: gpu.index)
    return [one for gpu in numbered for one in (gpu, *instances(gpu, mig))]


def split_row(line: str) -> list[str]:
    """Split a row of CSV. nvidia-smi quotes nothing."""
    return [column.strip() for column in line.split(",")]


def columns_of(line: str, names: Sequence[str]) -> dict[str, str]:
    """Return field → value of a row with too many columns: of a name with commas, or columns at its end.

    The PCI address shows which. Without one, the name has them.
    """
    columns, extra = split_row(line), 0
    if "name" in names and len(columns) > len(names):
        most = len(columns) - len(names)
        at, place = names.index("name"), names.index("pci.bus_id") if "pci.bus_id" in names else 0
        shown = [more for more in range(most + 1) if re.fullmatch(ADDRESS, columns[place + more * (place > at)])]
        extra = shown[0] if shown else most
        columns[at : at + extra + 1] = [", ".join(columns[at : at + extra + 1])]
    return dict(zip(names, columns, strict=False))


def cut_short(line: str, names: Sequence[str]) -> Gpu | None:
    """Return the GPU of a row that ended early, which counts as broken; None if the line is no row."""
    match = re.fullmatch(CUT_SHORT, line.strip())
    if not match or tuple(names[:3]) != ROW[:3]:
        return None
    name = (match[3] or "").strip()
    fault = "has an incomplete row in nvidia-smi's answer"
    return Gpu(int(match[1]), match[2], name, None, None, driver="", compute="", pci="", fault=fault)


def gpu(row: Mapping[str, str], remaps: Mapping[str, Sequence[str]]) -> Gpu:
    """Return the GPU of a row; its index is -1 if the row has none. Raises ValueError if the row names no GPU."""
    uuid, pci, index = row.get("uuid", ""), row.get("pci.bus_id", ""), row["index"]
    named, numbered = re.fullmatch(UUID, uuid), re.fullmatch(r"\d{1,4}", index)
    if not named and not re.fullmatch(ADDRESS, pci):
        raise ValueError(row)
    name, total = known(row.get("name", "")), row.get("memory.total", "")
    version, compute = row.get("driver_version", ""), row.get("compute_cap", "")
    dead = next((DEAD[text] for value in row.values() if (text := value.strip("[]")) in DEAD), "")
    missing = "" if named and numbered else lacks("UUID", uuid) if numbered else lacks("index", index)
    fault = JETSON if "(nvgpu)" in name else dead or missing
    mig = row.get("mig.mode.current") == "Enabled"
    return Gpu(
        index=int(index) if numbered else -1,
        uuid=uuid if named else pci,
        name=name,
        memory_total=number(total) or None,
        memory_used=number(row.get("memory.used", "")),
        driver=version if re.fullmatch(r"\d+(\.\d+)+", version) else "",
        compute=compute if re.fullmatch(r"\d+\.\d+", compute) else "",
        pci=pci if re.fullmatch(ADDRESS, pci) else "",
        utilization=number(row.get("utilization.gpu", "")),  # "[N/A]" on GPUs in MIG mode
        temperature=number(row.get("temperature.gpu", "")),
        fault=fault,
        unified=not mig and not fault and shares_memory(name, total),
        mig=mig,
        details=details(row, remaps.get(uuid, ())),
    )


def shares_memory(name: str, total: str) -> bool:
    """Does a GPU share the host's memory? name: "" if unknown. total: what nvidia-smi says of its own memory."""
    return total in NONE and bool(name) and not has_own_memory(name)


def lacks(what: str, said: str) -> str:
    """Return the fault of a GPU without its index or UUID. said: by nvidia-smi instead."""
    return f"has no {what} (nvidia-smi says {said or 'nothing'})"


def details(row: Mapping[str, str], remap: Sequence[str]) -> Details:
    """Return the condition of a GPU from its row and its row of remapped memory."""
    text: Callable[[str], str] = lambda name: row.get(name, "")  # noqa: E731
    return Details(
        persistence=yes(text("persistence_mode")),
        compute_mode=known(text("compute_mode")),
        width=number(text("pcie.link.width.current")),
        width_max=number(text("pcie.link.width.max")),
        power_limit=decimal(text("power.limit")),
        power_default=decimal(text("power.default_limit")),
        ecc=yes(text("ecc.mode.current")),
        ecc_errors=number(text("ecc.errors.uncorrected.volatile.total")),
        reset_required=yes(text("reset_status.reset_required")),
        throttle=bits(text("clocks_event_reasons.active") or text("clocks_throttle_reasons.active")),
        remap_pending=yes(remap[3]) if remap else None,
        remap_failed=yes(remap[4]) if remap else None,
        fabric_state=known(text("fabric.state")),
        fabric_status=known(text("fabric.status")),
        addressing=known(text("addressing_mode")),
    )


def known(text: str) -> str:
    """Return a value that is a text; "" if it is unknown, or if the GPU does not have it.

    >>> known("In Progress"), known("[GPU is lost]"), known("N/A"), known("None")
    ('In Progress', '', '', '')
    """
    return "" if text in UNKNOWN or text[:1] == "[" else text


def with_indices(found: Sequence[Gpu]) -> list[Gpu]:
    """Give each GPU without an index the position of its row, or the next free index: rows are in that order."""
    taken = {gpu.index for gpu in found}
    done = []
    for position, gpu in enumerate(found):
        index = gpu.index
        if index < 0:
            index = position if position not in taken else max(taken) + 1
            taken.add(index)
        done.append(replace(gpu, index=index))
    return done


def instances(gpu: Gpu, listed: Sequence[str]) -> list[Gpu]:
    """Return the MIG instances of a GPU from `nvidia-smi -L`.

    Their memory is the one in the profile's name, which is at most a few percent more than they have.

    >>> card = Gpu(0, "GPU-a", "NVIDIA A100", 40960, None, "580.95.05", "8.0", "0000:17:00.0", mig=True)
    >>> [(one.uuid, one.name, one.memory_total) for one in instances(card, [
    ...     "GPU 0: NVIDIA A100 (UUID: GPU-a)", "  MIG 3g.20gb     Device  0: (UUID: MIG-e07a)",
    ...     "GPU 1: NVIDIA A100 (UUID: GPU-b)", "  MIG 1g.5gb      Device  0: (UUID: MIG-77aa)"])]
    [('MIG-e07a', 'NVIDIA A100 MIG 3g.20gb', 20480)]
    """
    if not gpu.mig:
        return []
    found, current = [], ""
    for line in listed:
        if line.startswith("GPU "):
            match = re.search(rf"\(UUID: ({UUID})\)", line)
            current = match[1] if match else ""
        elif current == gpu.uuid and (
            match := re.fullmatch(
                r"\s*MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-(?:GPU-)?[0-9A-Fa-f-]+(?:/\d+/\d+)?)\)\s*", line
            )
        ):
            size = re.search(r"\.(\d{1,4})gb", match[1])
            found.append(
                replace(
                    gpu,
                    index=-1,
                    pci="",
                    uuid=match[2],
                    name=f"{gpu.name} MIG {match[1]}",
                    memory_total=int(size[1]) * 1024 if size else None,
                    memory_used=None,
                    utilization=None,
                    temperature=None,
                    mig=False,
                    parent=gpu.uuid,
                )
            )
    return found


def number(text: str) -> int | None:
    """Parse a whole number, with or without nvidia-smi's unit; None for anything else.

    >>> number("81920"), number("81920 MiB"), number("[N/A]"), number("[GPU requires reset]")
    (81920, 81920, None, None)
    """
    found = re.fullmatch(r"([0-9]{1,12})(?: (?:MiB|%))?", text)
    return int(found[1]) if found else None


def decimal(text: str) -> float | None:
    """Parse a number like `250.00` or `250.00 W`; None for anything else."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(?: W)?", text)
    return float(found[1]) if found else None


def bits(text: str) -> int | None:
    """Parse a mask like 0x0000000000000004; None for anything else."""
    return int(text, 16) if re.fullmatch(r"0x[0-9A-Fa-f]{1,16}", text) else None


def yes(text: str) -> bool | None:
    """Parse Yes, Enabled, 1 and No, Disabled, 0; None for anything else."""
    return {"yes": True, "enabled": True, "1": True, "no": False, "disabled": False, "0": False}.get(text.lower())


def gpu_processes(lines: Sequence[str]) -> list[GpuProcess]:
    """Parse `uuid,pid,used_memory,user,container,name`.

    uuid: of a GPU or of a MIG instance. container: the id in the process's cgroup, `uid:id` below the slice of a user.
    The name may contain any character.
    """

    def read(line: str) -> GpuProcess:
        uuid, pid, used, user, whose, container, name = fields(
            rf"({UUID}|MIG-[A-Za-z0-9/-]+),(\d{{1,10}}),([^,]*),([^,]*),(?:(\d{{1,10}}):)?({ID})?,(.*)", line
        )
        name = name.strip() or "a process that has ended"
        return GpuProcess(uuid, int(pid), name, number(used.strip()), user, container, int(whose or 0) or None)

    return each(lines, read)
