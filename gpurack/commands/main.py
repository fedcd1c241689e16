"""The `gpurack` command. Its verbs are in the modules that it adds here.

Hosts are changed by `apply`, and model by model by those of day_two.py.
"""

import io
import sys

import click

from gpurack import screen
from gpurack.commands import day_two, inventories, observing, pinning, planning
from gpurack.commands.verbs import Verbs
from gpurack.commands.version import print_version


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Print the version and the commit, and exit.",
)
def main() -> None:
    """Run models on GPU servers, as an inventory describes.

    \b
    Example:
      gpurack init my-lab                   write a project of your own
      gpurack plan inventories/lab.yaml     is it possible? (offline)
      gpurack diff inventories/lab.yaml     what would change?
      gpurack apply inventories/lab.yaml    apply it
      gpurack status inventories/lab.yaml   is it up?

    INVENTORY can be left out where a folder has only one.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # without UTF-8 a bar is shown as ?, where print would raise
    screen.protect()


main.add_command(planning.plan)
main.add_command(planning.diff)
main.add_command(planning.apply)
main.add_command(observing.status)
main.add_command(observing.verify)
main.add_command(inventories.init)
main.add_command(inventories.endpoints)
main.add_command(inventories.import_)
main.add_command(inventories.schema)
main.add_command(pinning.image)
main.add_command(pinning.lock)
main.add_command(pinning.manifest)
main.add_command(day_two.logs)
main.add_command(day_two.stop)
main.add_command(day_two.start)
main.add_command(day_two.restart)
main.add_command(day_two.history)
main.add_command(day_two.prune)
main.add_command(day_two.rollback)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      eval "$(gpurack completion bash)"     # in ~/.bashrc; zsh: in ~/.zshrc
      gpurack completion fish | source      # in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}.")
    script = kind(main, {}, "gpurack", "_GPURACK_COMPLETE")
    screen.echo(script.source_template % script.source_vars())
