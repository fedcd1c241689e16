"""docs/from-docker-run.md: every command of the seeds with its import by `gpurack import` (`make docs`)."""

from gpurack.engines import ENGINES
from gpurack.importing.reader import Imported
from gpurack.importing.text import field_lines
from tests.unit.importing.cases import Case, cases

HEAD = """\
<!-- Made by `make docs` from tests/unit/importing/; change it there. -->
# gpurack import: from docker run to an inventory

Read this to move containers that you start by hand, or a compose file, to gpurack.

    gpurack import start.sh                      # a shell script, a compose file, or Markdown notes with either
    gpurack import --host gpu1.lab > lab.py      # the running containers of a host; changes nothing

Scripts of PowerShell, cmd and fish, Makefiles, systemd units and Podman's commands are read as well.

It prints an equivalent inventory. Comments below it list what was imported (one line each), what is left for you to
decide, what was converted differently, and what was left out. Secrets are never printed. With `--host` every entry has
`replaces`, so that a run replaces the old container.

`gpurack plan` accepts what it prints once the keys are exported, if an entry is left. An entry whose GPUs or port
another one uses has `enabled: False`, as has one whose path or revision is `UNKNOWN`. An entry that cannot be accepted
is a comment. The report below says why.

| option | does |
|---|---|
| `--set model=BAAI/bge-m3` | defines a variable that the text does not define |
| `--file /models/c.json=c.json` | gives a copy of a file that a container reads |
| `--profile gpu` | also imports the services of this profile of a compose file. Default: `COMPOSE_PROFILES` of `.env` |
| `--fit A30=4` | proposes which of your GPUs each model gets, by an estimate from the names of the weights |
| `--yaml` | prints YAML |
| `--json` | prints entries, those that lack something (`unfinished`), findings and errors as JSON |

**Exit codes.** 0: complete. 1: something is left for you to fill in or decide. 2: nothing could be read.

These remarks apply to all commands below and are not repeated:

- **The image** is kept. If its tag floats (`latest`), prefer `version: "0.33.0"`: gpurack then chooses the image for
  the GPUs.
- **`-p 8000:8000`** publishes the port on every network of the host (`bind: "any"`), without a key. Prefer
  `bind: "lan"` and `api_key: {"env": "LAB_KEY"}`.
- **Weights** are mounted read-only at `/weights/<name>`.
- **`--runtime nvidia`** is not needed: containers get their GPUs by UUID (CDI).
- **Restart**: gpurack's containers run in the background and restart after a crash or reboot (`unless-stopped`).
- **`docker build`** becomes `image: {"build": …}`: gpurack builds each definition once on the host, with its target
  and arguments (`CUDA_VERSION`, `CUDA_DOCKER_ARCH`; [images.md](images.md)). The repository is the one that the text
  clones, or the engine's own if Dockerfile or name show it. You set the revision.
- **`docker commit`** is not needed: the entry is enough to start the container elsewhere. A committed image contains
  neither the mounted model nor the options. For a host without a registry, or to keep changes made inside a
  container, use `gpurack image save INVENTORY HOST NAME FILE.tar` and `image: {"tar": "FILE.tar"}`
  ([images.md](images.md)).
- **Commands that end** (llama.cpp's images `full` and `light`) become `jobs`: they run once, and gpurack keeps the
  result ([jobs.md](jobs.md)).

All of these commands in one inventory, with their conflicts resolved: [inventories/lab.py](../inventories/lab.py).
"""
IN_HEAD = (
    " has a floating tag", "needs no API key and is reachable", "weights are mounted read-only",
    "--runtime nvidia is left", "gpurack restarts it after a crash",
    "runs once, and again when",
)  # fmt: skip
TITLES = dict(sorted((name.replace(".", "-"), engine.title) for name, engine in ENGINES.items()))
"""Prefix of a case's name → its section."""


def page() -> str:
    """The whole page. Commands with the same entry are shown together."""
    text, every = HEAD, cases()
    for title in TITLES.values():
        of_title = [case for case in every if title_of(case) == title]
        text += f"\n## {title}\n" if of_title else ""
        while of_title:
            first = of_title[0]
            together = [case for case in of_title if case.imported.data == first.imported.data]
            together = together if first.imported.data else [first]
            text += section(together)
            of_title = [case for case in of_title if case not in together]
    return text


def title_of(case: Case) -> str:
    """The section of a case: that of the longest matching prefix of its name."""
    return TITLES[max((start for start in TITLES if case.name.startswith(start)), key=len)]


def section(together: list[Case]) -> str:
    """Commands with their entry and findings."""
    text = ""
    for case in together:
        kind = "yaml" if case.text.startswith("version:") else "sh"
        text += f"\n```{kind}\n{case.text.rstrip()}\n```\n"
    imported = together[0].imported
    if imported.data:
        text += f"\n```python\n{entries(imported)}```\n"
    remarks = [
        finding.what
        for case in together
        for finding in case.imported.findings
        if not any(said in finding.what for said in IN_HEAD)
    ]
    remarks += [f"`gpurack plan` reports: {what}" for what in together[0].told.get("refused", [])]
    given = [f"`--set {name}={value}`" for name, value in together[0].told.get("variables", {}).items()]
    given += [f"`--file {path}={name}`" for path, name in together[0].told.get("files", {}).items()]
    if given:
        remarks.insert(0, f"Read with {', '.join(given)}.")
    return text + ("\n" + "".join(f"- {what}\n" for what in dict.fromkeys(remarks)) if remarks else "")


def entries(imported: Imported) -> str:
    """The fields of the host in Python."""
    return "".join(f"{line}\n" for name, value in imported.data.items() for line in field_lines(name, value))


if __name__ == "__main__":
    print(page(), end="")
