"""The cards of a container, and how many of them it computes on."""

from gpurack.importing.translation import Translation, counted, listed


def say_cards(t: Translation) -> None:
    """The cards that it was given, by index or UUID."""
    gpus = t.run.gpus
    if gpus is None:
        computes = t.engine.unused.get("gpus") is None
        t.gpus = [] if computes else None
    elif isinstance(gpus, int):
        t.gpus = list(range(gpus))
        t.say("open", f"a count of {gpus} takes whatever {counted(gpus, 'card')} Docker finds first: written "
              f"as gpus {t.gpus}; choose the cards.")  # fmt: skip
    elif gpus == "all":
        t.gpus = "all"
    else:
        t.gpus = [int(item) if item.isdigit() else item for item in gpus]
        strange = [item for item in t.gpus if isinstance(item, str) and not item.startswith("GPU-")]
        if strange:
            t.say("open", f"GPU {', '.join(strange)} could not be expressed; write an index or a UUID.")
            t.gpus = [item for item in t.gpus if item not in strange]


def say_parallelism(t: Translation) -> None:
    """As many cards as the flags need; tensor parallel itself follows from the cards."""
    if t.engine.parallel_flags and t.gpus:  # as many as they say, whatever it is shown
        tensor, *others = t.engine.parallel_flags
        sizes = [int(t.flags.given[flag][-1]) for flag in (tensor, *others) if flag in t.flags.given]
        needed = 1
        for size in sizes:
            needed *= size
        if t.gpus == "all":
            t.gpus = list(range(needed))
            t.say("open", f"it is shown every card and computes on {counted(needed, 'card')}: written as "
                  f"gpus {t.gpus}; choose the {'card' if needed == 1 else 'cards'}.")  # fmt: skip
        elif len(t.gpus) > needed:
            t.say("open", f"it was given GPU {listed(t.gpus)} and computes on {counted(needed, 'card')}: "
                  f"written as gpus {t.gpus[:needed]}; more need {tensor}.")  # fmt: skip
            t.gpus = t.gpus[:needed]
        if len(t.gpus) == needed:
            t.flags.given.pop(tensor, None)
        else:
            t.say("open", f"it needs {counted(needed, 'card')} ({tensor}) and was given GPU {listed(t.gpus)}.")
    elif t.engine.one_gpu and t.gpus == "all":
        t.gpus = [0]
        t.say("open", "it is shown every card and computes on one: written as gpus [0]; choose the card.")
    elif t.gpus == "all":
        t.say("open", "it takes every card, so nothing else has room on this host; list cards to share.")
    if t.gpus is not None:
        t.fields["gpus"] = t.gpus
    fraction = t.flags.given.get(t.dialect.share)
    if fraction and t.gpus:
        t.fields["vram"] = f"{float(fraction[-1]) * 100:g}%"
        del t.flags.given[t.dialect.share]
