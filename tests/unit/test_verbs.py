"""What all verbs of `gpurack` share: help, examples, unknown verbs, the inventory that is left out, completion."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from gpurack.commands import image_save, verify
from gpurack.commands.main import main

LAB = "hosts: {gpu1: {models: {alpha: {engine: llama.cpp, version: b7000, weights: /w/a.gguf, port: 8000}}}}\n"


def verbs(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from verbs(command, *above, name)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), prog_name="gpurack")


@pytest.mark.parametrize("verb", [(), *verbs(main)], ids=" ".join)
def test_help_has_an_example_and_fits_80_columns(verb: tuple[str, ...]) -> None:
    done = run(*verb, "--help")
    lines = done.output.splitlines()
    assert done.exit_code == 0
    assert [line for line in lines if len(line) > 80] == []
    assert not any(line.rstrip().endswith("...") for line in lines if not line.startswith("Usage:")), "cut"
    start = lines.index("  Example:") + 1
    assert lines[start].startswith("    ")
    assert " ".join(("gpurack", *verb)) in lines[start]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("run", "Use `gpurack apply lab.yaml`."),
        ("new", "Use `gpurack init lab.yaml`."),
        ("deploy", "Use `gpurack apply lab.yaml`."),
        ("up", "Use `gpurack apply lab.yaml`."),
        ("check", "Use `gpurack plan lab.yaml`."),
        ("ps", "Use `gpurack status lab.yaml`."),
        ("test", "Use `gpurack verify lab.yaml`."),
        ("destroy", "Use `pyinfra lab.yaml deploys/remove.py`."),
        ("rm", "Use `pyinfra lab.yaml deploys/remove.py`."),
        ("pull", "Use `gpurack apply --prepare lab.yaml`."),
        ("undo", "Use `gpurack rollback lab.yaml`."),
        ("clean", "Use `gpurack prune lab.yaml`."),
        ("exec", "Use `ssh HOST docker exec -it MODEL bash`."),
        ("aply", "Did you mean `gpurack apply`?"),
    ],
)
def test_unknown_verb_names_the_right_one(word: str, hint: str) -> None:
    done = run(word, "lab.yaml")
    assert done.output.splitlines()[-1] == f"error  no command `{word}`. {hint}"
    assert done.exit_code == 2


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "inventories").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("lab.yaml", LAB),
        ("inventories/lab.yml", LAB),
        ("inventories/lab.py", 'gpu = ([("gpu1", {})], {"models": {}})\n'),
        ("lab.py", 'gpu = [("gpu1", {"models": {}})]\n'),
    ],
)
def test_takes_the_only_inventory_of_a_folder(project: Path, file: str, text: str) -> None:
    (project / "config.py").write_text("GROUPS = ['a']\n")
    (project / "deploy.py").write_text("from gpurack.deploys import gpu_host\n\ngpu_host()\n")
    (project / "lab.lock.yaml").write_text("hosts: {}\n")
    (project / file).write_text(text)
    from gpurack.inventory.find import inventories

    assert list(map(str, inventories())) == [file]


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (("apply", "lab.yaml", "–dry"), "`–dry` begins with a dash of a word processor", "write `--dry`"),
        (("logs", "lab.yaml", "gpu1/alpha", "—follow"), "`—follow` begins with a dash of", "write `--follow`"),
        (("logs", "lab.yaml", "alpha", "bash"), "unexpected argument `bash`", "gpurack logs lab.yaml"),
        (("rollback", "lab.yaml", "gpu1/alpha", "2"), "unexpected argument `2`", "gpurack rollback lab.yaml"),
        (("verify", "lab.yaml", "gpu1"), "unexpected argument", "`gpurack verify lab.yaml --limit gpu1`"),
    ],
)
def test_says_what_to_write_for_an_argument_too_many(
    project: Path, words: tuple[str, ...], what: str, hint: str
) -> None:
    (project / "lab.yaml").write_text(LAB)
    done = run(*words)
    assert what in done.output
    assert hint in done.output
    assert done.exit_code == 2


def test_python_file_that_loads_yaml_stands_for_both(project: Path) -> None:
    (project / "lab.yaml").write_text(LAB)
    (project / "lab.py").write_text('import gpurack\n\nglobals().update(gpurack.load("lab.yaml"))\n')
    assert "gpurack apply lab.py" in run("plan").output


def test_no_verb_requires_its_inventory() -> None:
    """Where the folder has one, it can be left out."""
    usages = [run(*verb, "--help").output.partition("\n")[0] for verb in verbs(main)]
    naming = [usage for usage in usages if "INVENTORY" in usage]
    assert len(naming) == 16
    assert [usage for usage in naming if "[INVENTORY]" not in usage] == []


@pytest.mark.parametrize("words", [("gpu1", "alpha", "a.tar"), ("lab.yaml", "gpu1", "alpha", "a.tar")])
def test_image_save_takes_the_only_inventory(
    project: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(image_save, "save", lambda *given: saved.append(given[:4]))
    (project / "lab.yaml").write_text(LAB)
    assert run("image", "save", *words).exit_code == 0
    assert saved == [(Path("lab.yaml"), "gpu1", "alpha", Path("a.tar"))]


@pytest.mark.parametrize("words", [("gpu1", "alpha"), ("lab.yaml", "gpu1", "alpha", "a.tar", "b.tar")])
def test_image_save_needs_three_words(project: Path, words: tuple[str, ...]) -> None:
    (project / "lab.yaml").write_text(LAB)
    assert run("image", "save", *words).exit_code == 2


def test_several_inventories_are_listed(project: Path) -> None:
    (project / "a.yaml").write_text(LAB)
    (project / "b.yaml").write_text(LAB)
    done = run("plan")
    assert done.output == (
        "error  no inventory given, and this folder has several: a.yaml, b.yaml. Name one: `gpurack plan a.yaml`.\n"
    )
    assert done.exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_prints_completion_that_its_shell_accepts(shell: str, tmp_path: Path) -> None:
    done = run("completion", shell)
    assert "_GPURACK_COMPLETE" in done.output
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.output, text=True, check=True)


def test_completion_knows_the_verbs() -> None:
    done = CliRunner().invoke(
        main,
        prog_name="gpurack",
        env={"_GPURACK_COMPLETE": "bash_complete", "COMP_WORDS": "gpurack ap", "COMP_CWORD": "1"},
    )
    assert done.output.split() == ["plain,apply"]


@pytest.mark.parametrize(("theirs", "ours"), [(0, 0), (1, 1), (2, 130), (3, 2), (4, 2), (5, 2), (64, 4)])
def test_verify_runs_pytest(project: Path, monkeypatch: pytest.MonkeyPatch, theirs: int, ours: int) -> None:
    ran: list[list[str]] = []

    def call(words: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        ran.append(words)
        return subprocess.CompletedProcess(words, theirs)

    monkeypatch.setattr(verify.subprocess, "run", call)
    (project / "lab.yaml").write_text(LAB)
    done = run("verify", "--limit", "gpu1", "--deep", "-k", "packages or holds")
    assert done.exit_code == ours, done.output
    options = ["--inventory", "lab.yaml", "--limit", "gpu1", "-m", "deep or not deep", "-k", "packages or holds"]
    assert ran[0][-len(options) :] == options
    run("verify", "-v", "-x")
    assert [words.count("-q") for words in ran] == [2, 0]
    assert {"-v", "-x"} <= {*ran[1]}


def test_verify_reports_errors_of_the_inventory_as_other_verbs_do(project: Path) -> None:
    (project / "lab.yaml").write_text(LAB.replace("port", "prot"))
    done = run("verify")
    assert done.exit_code == 2
    assert done.output.startswith("error  gpu1 models.alpha")
    assert done.output.endswith("before applying.\n")


def test_every_error_begins_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """click's own `Error: ` is printed for none."""
    monkeypatch.setattr(verify, "find_spec", lambda name: None)
    (tmp_path / "lab.yaml").write_text("hosts: {gpu1: {}}\n")
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "lab.yaml")], prog_name="gpurack")
    assert done.output.startswith("error  gpurack verify needs pytest and testinfra. Run: pip install pytest")
    assert done.exit_code == 1


def test_full_disk_below_the_output_is_one_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpurack", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error  a file or the output could not be written: no space left on this computer.\n"
