"""ContainerRun → an entry of `models`, `services` or `jobs` that means the same, and what it does not say."""

from gpurack.engines import ENGINES
from gpurack.engines.custom import Custom
from gpurack.importing import built, jobs, recognise, secret
from gpurack.importing import flags as flags_of
from gpurack.importing.address import choose_key, say_address
from gpurack.importing.arguments import environment_to_flags, say_args, say_rest_of_own_flags
from gpurack.importing.cards import say_cards, say_parallelism
from gpurack.importing.command import read_arguments
from gpurack.importing.container import ContainerRun, Finding
from gpurack.importing.image import choose_engine, say_image
from gpurack.importing.rest import say_compose, say_connections, say_environment, say_mounts, say_pulls
from gpurack.importing.translation import Entry, Known, Translation
from gpurack.importing.weights import say_weights
from gpurack.spec.fields import in_order
from gpurack.spec.model import Job, Model


def entry_of(run: ContainerRun, known: Known) -> tuple[Entry | None, list[Finding]]:
    """The entry of a container; None for what is no service."""
    translation = Translation(run, known)
    entry = entry_in(translation)
    return entry, translation.findings


def entry_in(t: Translation) -> Entry | None:
    """One step after the other, each in the module that it is named after."""
    run = t.run
    image = recognise.moved(run.image)
    # what runs on a host has its image there, under its name
    t.built = t.known.images.get(built.full(image)) or (None if run.running else built.by_name(image, ""))
    like = (t.built.like if t.built else "") or image
    if engine := recognise.engine_of_job(like, run.command):
        t.engine = engine
        return job_of(t, image)
    t.engine = choose_engine(t, like)
    if t.unknown and run.running and run.gpus is None:
        t.findings = []
        t.say("left out", f"{run.image} is no engine that gpurack knows, and has no card.")
        return None
    if t.unknown and not run.ports and not run.host_network and (run.interactive or not run.detached):
        t.findings = []
        t.say("left out", f"no service: {run.image} publishes no port and runs in the foreground.")
        return None
    arguments = read_arguments(t)
    t.listens = None
    in_front = run.interactive and not run.detached
    if arguments is None and (run.running or in_front) and not run.ports and not run.host_network:
        t.findings = []
        what = f"no service: it runs `{secret.masked([*(run.entrypoint or ()), *run.command], 60)}` and has no port."
        t.say("left out", what)
        return None
    if arguments is None:
        if not t.unknown:
            # another program in the image of an engine we know: it still answers where that engine does
            t.listens = t.engine.port
            t.compose["x-ready"] = t.engine.ready_path
        t.engine, arguments = ENGINES[Custom.name], flags_of.Flags()
    t.flags = arguments
    t.fields["engine"] = t.engine.name
    say_image(t, image)
    environment_to_flags(t)
    say_weights(t)
    say_cards(t)
    say_parallelism(t)
    t.key = choose_key(t)
    say_address(t)
    say_rest_of_own_flags(t)
    say_args(t)
    say_environment(t)
    say_connections(t)
    say_pulls(t)
    say_mounts(t)
    say_compose(t)
    kind = "services" if t.engine.service else "models"
    return Entry(run.where, kind, t.key, in_order(Model, t.fields), t.host)


def job_of(t: Translation, image: str) -> Entry:
    """Something that is done once and ends."""
    fields, words = jobs.fields_of(t.run, image, t.engine, t.absolute)
    t.fields = {"engine": t.engine.name}
    say_image(t, image)
    if t.built:
        fields["image"] = t.fields["image"]
    t.fields = {"engine": t.engine.name, **fields, "command": secret.hidden_words(fields["command"])}
    if t.fields["command"] != fields["command"]:
        t.say("open", f"a secret stood in plain text in its command; it is {secret.HIDDEN} here. hf_token of "
              "the host is for weights; give others by a file.")  # fmt: skip
    say_cards(t)
    if t.gpus:
        t.fields["gpus"] = t.gpus
        t.say("changed", "it takes no card from a model: choose one that none has.")
    say_environment(t)
    if words:
        t.fields["compose"] = secret.hidden(words)
    t.key = jobs.name_of(t.run, t.engine)
    if t.run.name is None:
        t.say("open", f'the container has no name; "{t.key}" is chosen.')
    if jobs.jobs_of(t.engine).makes_a_file(t.run.command) and "result" not in fields:
        t.say("open", "the file that it makes is not known; write result, so that its end is checked.")
    t.say("changed", "it is done once, and again only when its entry changes; what it prints is kept.")
    return Entry(t.run.where, "jobs", t.key, in_order(Job, t.fields), t.host)
