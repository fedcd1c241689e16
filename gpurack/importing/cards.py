"""The GPUs of a container, and how many of them it uses."""

from gpurack.importing.translation import Translation, counted, listed


def convert_gpus(t: Translation) -> None:
    """The GPUs that the container was given, by index or UUID."""
    gpus = t.run.gpus
    if gpus is None:
        computes = t.engine.unused.get("gpus") is None
        t.gpus = [] if computes else None
    elif isinstance(gpus, int):
        t.gpus = list(range(gpus))
        t.note("open", f"asked for any {counted(gpus, 'GPU')}; set to gpus {t.gpus}. Check which to use.")
    elif gpus == "all":
        t.gpus = "all"
    else:
        t.gpus = [int(item) if item.isdigit() else item for item in gpus]
        strange = [item for item in t.gpus if isinstance(item, str) and not item.startswith("GPU-")]
        if strange:
            t.note("open", f"GPU {', '.join(strange)} was not converted. Use an index or a UUID.")
            t.gpus = [item for item in t.gpus if item not in strange]


def convert_parallelism(t: Translation) -> None:
    """Reduce `gpus` to the number that the flags use. gpurack sets tensor parallelism by the number of GPUs."""
    if t.engine.parallel_flags and t.gpus:
        tensor, *others = t.engine.parallel_flags
        sizes = [int(t.flags.given[flag][-1]) for flag in (tensor, *others) if flag in t.flags.given]
        needed = 1
        for size in sizes:
            needed *= size
        if t.gpus == "all":
            t.gpus = list(range(needed))
            t.note("open", f"was given all GPUs but uses {counted(needed, 'GPU')}; set to gpus {t.gpus}. "
                  "Check which to use.")  # fmt: skip
        elif len(t.gpus) > needed:
            t.note("open", f"was given GPU {listed(t.gpus)} but uses {counted(needed, 'GPU')}; set to "
                  f"gpus {t.gpus[:needed]}. Set {tensor} to use more.")  # fmt: skip
            t.gpus = t.gpus[:needed]
        if len(t.gpus) == needed:
            t.flags.given.pop(tensor, None)
        else:
            t.note("open", f"needs {counted(needed, 'GPU')} ({tensor}) but was given GPU {listed(t.gpus)}.")
    elif t.engine.one_gpu and t.gpus == "all":
        t.gpus = [0]
        t.note("open", "was given all GPUs but uses one GPU; set to gpus [0]. Check which to use.")
    elif t.gpus == "all":
        t.note("open", "uses all GPUs of the host, so no other model can. List GPUs by index to share the host.")
    if t.gpus is not None:
        t.fields["gpus"] = t.gpus
    fraction = t.flags.given.get(t.dialect.share)
    if fraction and t.gpus:
        t.fields["vram"] = f"{float(fraction[-1]) * 100:g}%"
        del t.flags.given[t.dialect.share]
