"""docs/from-docker-run.md: every command of the seeds and what `gpurack import` makes of it (`make docs`)."""

from gpurack.engines import ENGINES
from gpurack.importing.reader import Imported
from gpurack.importing.text import field_lines
from tests.unit.importing.cases import Case, cases

HEAD = """\
<!-- Made by `make docs` from tests/unit/importing/; change it there. -->
# From docker run to the inventory

    gpurack import start.sh                      # docker run lines, a shell snippet, or a compose file
    gpurack import --host gpu1.lab > lab.py      # the containers that run there; nothing is changed

prints an inventory that means the same, and below it, as comments, everything that it does not say or says
differently: what is left for you to decide, what changed, and what was no service. Values of secrets are never
printed. `--set model=BAAI/bge-m3` gives a variable that the text leaves undefined, `--file /models/c.json=c.json` a
file that a container reads its settings from, `--yaml` prints YAML. Exit code 0 says that nothing is left to do, 1
that something is, 2 that nothing could be read. With `--host` every entry has `replaces`, so that a run puts gpurack's
container in the place of the old one.

What is the same for all of these commands is not repeated below:

- **The image** is kept as it was named. Where its tag floats (`latest`), better write `version: "0.33.0"`: gpurack then
  chooses the image for the cards.
- **`-p 8000:8000`** is open to every network of the host (`bind: "any"`), and nobody needs a key. Better: `bind: "lan"`
  and `api_key: {"env": "LAB_KEY"}`.
- **Weights** are mounted read-only at `/weights/<name>`, and the engine is told that path.
- **`--runtime nvidia`** is not needed: containers get their cards by UUID (CDI).
- **Restart**: gpurack's containers run in the background and come back after a crash and a reboot (`unless-stopped`).
- **`docker build`** by hand becomes `image: {"build": …}` of the entries that use it: built on the host, once for each
  definition, with target and arguments (`CUDA_VERSION`, `CUDA_DOCKER_ARCH`; [images.md](images.md)). The repository is
  the one that the text clones, or the engine's own where Dockerfile or name show it; the revision is yours to write.
- **`docker commit`** is not needed to start the same thing elsewhere: the inventory is the package. Such an image holds
  neither the model, which is mounted, nor the options it was started with. For a host that reaches no registry, or for
  what somebody changed inside a container: `gpurack image save INVENTORY HOST NAME FILE.tar` and
  `image: {"tar": "FILE.tar"}` ([images.md](images.md)).
- **What ends** (llama.cpp's images `full` and `light`) is an entry of `jobs`: done once, its result kept
  ([jobs.md](jobs.md)).

All of it together, with its conflicts resolved, is [inventories/lab.py](../inventories/lab.py).
"""
SAID_ABOVE = (
    " floats: tomorrow", "everybody who reaches the host", "its weights are mounted read-only",
    "--runtime nvidia is left", "gpurack runs it as a service, again",
    "it is done once, and again only when",
)  # fmt: skip
TITLES = dict(sorted((name.replace(".", "-"), engine.title) for name, engine in ENGINES.items()))
"""How the name of a case begins → the section that it stands in."""


def page() -> str:
    """The whole page. Commands with the same entry, and nothing else to say, stand together."""
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
    """The longest beginning of its name that is an engine's."""
    return TITLES[max((start for start in TITLES if case.name.startswith(start)), key=len)]


def section(together: list[Case]) -> str:
    """Commands, their entry, and what there is to say."""
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
        if not any(said in finding.what for said in SAID_ABOVE)
    ]
    remarks += [f"The plan refuses it: {what}" for what in together[0].told.get("refused", [])]
    given = [f"`--set {name}={value}`" for name, value in together[0].told.get("variables", {}).items()]
    given += [f"`--file {path}={name}`" for path, name in together[0].told.get("files", {}).items()]
    if given:
        remarks.insert(0, f"Read with {', '.join(given)}.")
    return text + ("\n" + "".join(f"- {what}\n" for what in dict.fromkeys(remarks)) if remarks else "")


def entries(imported: Imported) -> str:
    """The host's fields in Python."""
    return "".join(f"{line}\n" for name, value in imported.data.items() for line in field_lines(name, value, 0))


if __name__ == "__main__":
    print(page(), end="")
