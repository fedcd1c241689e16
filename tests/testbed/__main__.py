"""`python -m tests.testbed`: the testbed's command line."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.testbed import disk, engine, engines, hosts
from tests.testbed.shell import TestbedError, progress
from tests.testbed.testbed import DEFAULT, Testbed, down


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args()
    started = time.monotonic()
    try:
        match arguments.verb:
            case "up":
                Testbed.up(arguments.names or DEFAULT, arguments.kind)
                progress(f"up after {time.monotonic() - started:.0f} s; end it: python -m tests.testbed down")
            case "services":
                Testbed.up([])
            case "status":
                return _status()
            case "engines":
                Testbed.load().serve_engines(*(arguments.names or engines.NAMES))
            case "down":
                if not (arguments.idle and _has_hosts()):
                    down(arguments.purge)
                    progress(f"ended; {disk.kept()}")
            case "recreate" | "prepare" | "remove" | "reboot" | "stop" | "start":
                _each(arguments.verb, arguments.names)
            case "ssh":
                argv = Testbed.load().host(arguments.name).ssh_argv()
                os.execvp(argv[0], [*argv, *arguments.command])
            case "root":
                done = Testbed.load().host(arguments.name).root(" ".join(arguments.command), check=False)
                sys.stdout.write(done.stdout)
                sys.stderr.write(done.stderr)
                return done.returncode
            case "gpus":
                return _gpus(arguments.name, arguments.action, arguments.values)
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("testbed: interrupted; the next `up` continues from here.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make hosts and services run (default: gpu1 cpu1)")
    up.add_argument("names", nargs="*", metavar="NAME")
    up.add_argument("--kind", choices=sorted(hosts.KINDS), help="for names from which it does not follow")
    verbs.add_parser("services", help="make the services run, and no host")
    verbs.add_parser("status", help="what runs")
    images = verbs.add_parser("engines", help="make the registry have engines' images (default: all)")
    images.add_argument("names", nargs="*", metavar="ENGINE")
    end = verbs.add_parser("down", help="end exactly what up made")
    end.add_argument("--purge", action="store_true", help="also throw away images and the private Docker's data")
    end.add_argument("--idle", action="store_true", help="only where it has no hosts")
    for verb, text in {
        "recreate": "throw hosts away and make them anew",
        "prepare": "throw hosts away and make them anew as the main job leaves them",
        "remove": "throw hosts away",
        "reboot": "reboot hosts",
        "stop": "shut hosts down",
        "start": "switch hosts on",
    }.items():
        verbs.add_parser(verb, help=text).add_argument("names", nargs="+", metavar="NAME")
    for verb, text in {
        "ssh": "log in, or run a command",
        "root": "run a command as root, not through sshd",
    }.items():
        one = verbs.add_parser(verb, help=text)
        one.add_argument("name", metavar="NAME")
        one.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    gpus = verbs.add_parser("gpus", help="play tricks on a host's simulated cards")
    gpus.add_argument("name", metavar="NAME")
    actions = ("show", "swap", "lose", "mismatch", "foreign", "late", "cuda", "machine", "reset")
    gpus.add_argument("action", nargs="?", default="show", choices=actions)
    tricks = "swap I J | lose I | mismatch [LIBRARY] | foreign I MIB | late SECONDS | cuda CODE | machine NAME"
    gpus.add_argument("values", nargs="*", help=tricks)
    return parser


def _has_hosts() -> bool:
    found = engine.find()
    return found is not None and bool(hosts.existing(found))


def _status() -> int:
    found = engine.find()
    known = hosts.existing(found) if found else {}
    if found is None or not known:
        print("down")
        return 1
    print(f"docker     {'private, ' + str(found.address) if found.private else 'the one of this machine'}")
    for host in known.values():
        state = f"127.0.0.1:{host.port}" if host.pid() else "switched off"
        print(f"{host.name:10} {host.kind:13} {state}")
    print(f"log in     ssh -F {hosts.SSH_CONFIG} NAME")
    return 0


def _each(verb: str, names: list[str]) -> None:
    testbed = Testbed.load()
    for name in names:
        match verb:
            case "recreate":
                testbed.recreate(name)
            case "prepare":
                testbed.prepared(name)
            case "remove":
                testbed.remove(name)
            case "reboot":
                testbed.host(name).reboot()
            case "stop":
                testbed.host(name).stop()
            case "start":
                testbed.host(name).start()
        progress(f"{name}: {verb} done")


def _gpus(name: str, action: str, values: list[str]) -> int:
    host = Testbed.load().host(name)
    gpus = host.gpus
    numbers = [int(value) for value in values if value.isdigit()]
    try:
        match action:
            case "swap":
                gpus.swap(numbers[0], numbers[1])
            case "lose":
                gpus.lose(numbers[0])
            case "mismatch":
                gpus.mismatch(*values)
            case "foreign":
                gpus.foreign(numbers[0], numbers[1])
            case "late":
                gpus.late(numbers[0])
            case "cuda":
                gpus.cuda(*numbers)
            case "machine":
                gpus.machine(*values)
            case "reset":
                gpus.reset()
    except IndexError:
        raise TestbedError(f"gpus {name} {action} needs more numbers: see --help.") from None
    done = host.root("nvidia-smi", check=False)
    print(done.stdout or done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
