"""The names of labels are in gpurack/paths.py alone; programs that cannot import it spell the same."""

import re
from pathlib import Path

from gpurack import paths

ROOT = Path(__file__).parents[2]
LABELS = {paths.MODEL_LABEL, paths.JOB_LABEL, paths.PROBE_LABEL}
OWN = {"gpurack/paths.py", "files/paths.py", "files/evidence_docker.py"}
"""Verification observes by its own means."""


def sources(pattern: str) -> dict[str, str]:
    found = [*ROOT.glob(f"gpurack/{pattern}"), *ROOT.glob(f"files/{pattern}")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in found}


def test_no_module_spells_a_label() -> None:
    pattern = re.compile(rf"[\"']({'|'.join(map(re.escape, LABELS))})[\"']")
    assert [name for name, text in sources("**/*.py").items() if name not in OWN and pattern.search(text)] == []


def test_labels_in_shell_text_are_these() -> None:
    texts = {**sources("**/*.py"), **sources("*.sh")}
    found = {label for text in texts.values() for label in re.findall(r"label=(gpurack\.\w+)", text)}
    found |= {label for text in texts.values() for label in re.findall(r'Labels "(gpurack\.\w+)"', text)}
    assert found
    assert found <= LABELS
