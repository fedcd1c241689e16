"""Convert a ContainerRun to an equivalent entry of `models`, `services` or `jobs`, with findings."""

from gpurack.engines import ENGINES
from gpurack.engines.args import with_dashes
from gpurack.engines.custom import Custom
from gpurack.engines.dialect import NODES
from gpurack.importing import built, helpers, recognise, secret
from gpurack.importing import flags as flags_of
from gpurack.importing.address import choose_key, convert_address
from gpurack.importing.arguments import convert_args, convert_own_flags, environment_to_flags
from gpurack.importing.command import read_arguments
from gpurack.importing.container import ContainerRun, Finding, Kind
from gpurack.importing.gpu_fields import convert_gpus, convert_parallelism, hosts_of, keep_slices
from gpurack.importing.image import choose_engine, convert_image
from gpurack.importing.jobs import convert_job
from gpurack.importing.rest import (
    convert_compose,
    convert_connections,
    convert_environment,
    convert_first_account,
    convert_mounts,
    convert_pulls,
)
from gpurack.importing.translation import Entry, Known, Translation
from gpurack.importing.weights import convert_weights
from gpurack.spec.fields import in_order
from gpurack.spec.image_ref import split
from gpurack.spec.model import Model


def entry_of(run: ContainerRun, known: Known) -> tuple[Entry | None, list[Finding]]:
    """(the entry of a container, None if it is not a service; findings)"""
    translation = Translation(run, known)
    entry = entry_in(translation)
    return entry, translation.findings


def entry_in(t: Translation) -> Entry | None:
    """Run the conversion steps in order. Returns None if the container is not a service."""
    run = t.run
    image = recognise.moved(run.image)
    # the image of a running container exists on its host under this name
    t.built = t.known.images.get(built.full(image)) or (None if run.running else built.by_name(image, ""))
    like = (t.built.like if t.built else "") or image
    if engine := recognise.engine_of_job(like, run.command):
        t.engine = engine
        return convert_job(t, image)
    t.engine = choose_engine(t, like)
    if why := no_service(t):
        t.without_entry(*why)
        return None
    slices = keep_slices(t)
    arguments = None if slices else read_arguments(t)
    t.listens = None
    shown = secret.masked_command(run.argv, 60)
    in_front = run.interactive and not run.detached
    if arguments is None and (run.running or in_front) and not run.ports and not run.host_network:
        t.without_entry("left out", f"not a service: runs `{shown}` without a port.")
        return None
    if run.once or (arguments is None and not run.ports and not run.host_network and helpers.runs_once(run, t.engine)):
        t.without_entry("left out", f"runs `{shown}` once and ends. Run it by other means.")
        return None
    if arguments and not names_weights(t, arguments):
        t.note("open", f"its flags name no model. The command is kept, with engine {Custom.name}.")
        arguments = None
    if arguments is None:
        if not t.unknown:
            # another program in the image of a known engine usually listens on that engine's port
            t.listens = t.engine.port
            t.compose["x-ready"] = t.engine.ready_path
        t.engine, arguments = ENGINES[Custom.name], flags_of.Flags()
    t.flags = arguments
    if hosts := hosts_of(t):
        what = f"not imported: it runs over {hosts} hosts (--{NODES}), and an entry runs on one host."
        t.without_entry("open", what)
        return None
    t.fields["engine"] = t.engine.name
    convert_image(t, image)
    environment_to_flags(t)
    convert_weights(t)
    convert_gpus(t)
    convert_parallelism(t)
    t.key = choose_key(t)
    convert_address(t)
    convert_connections(t)
    convert_own_flags(t)
    convert_args(t)
    convert_first_account(t)
    convert_environment(t)
    convert_pulls(t)
    convert_mounts(t)
    convert_compose(t)
    names_others = any(name in text for text in run.environment.values() for name in others_of(t))
    helper = t.unknown and not t.gpus and (helpers.is_helper(split(run.image)[0]) or names_others)
    kind = "services" if t.engine.service or helper else "models"
    return Entry(run.where, kind, t.key, in_order(Model, t.fields), t.host, t.inside)


def no_service(t: Translation) -> tuple[Kind, str] | None:
    """Why the container of an unknown image gets no entry; None if it does."""
    run = t.run
    if not t.unknown:
        return None
    if run.running and run.gpus is None:
        return "left out", f"{run.image} is not a known engine and uses no GPU."
    if run.ports or (run.host_network and not helpers.is_helper(split(run.image)[0])):
        return None
    if run.interactive or not run.detached:
        return "left out", f"not a service: {run.image} publishes no port and runs in the foreground."
    if run.gpus is not None and run.compose.get("expose"):
        return None
    how: Kind = "left out" if run.gpus is None else "open"
    return how, f"not imported: {run.image} is not a known engine and publishes no port. Start it by other means."


def names_weights(t: Translation, arguments: flags_of.Flags) -> bool:
    """False if the engine needs weights and neither flags nor variables name them."""
    named = t.engine.flags_for("weights", "config")
    variables = {with_dashes(t.dialect.variables.get(name, "")) for name, value in t.environment.items() if value}
    needed = t.engine.weights_folders or t.engine.weights_suffixes
    return not needed or not {*arguments.given, *variables}.isdisjoint(named)


def others_of(t: Translation) -> list[str]:
    """The beginnings of addresses of the text's other containers."""
    others = {*t.known.names, *t.run.links} - {t.run.name, *t.run.aliases}
    return [f"//{name}{end}" for name in others for end in (":", "/")]
