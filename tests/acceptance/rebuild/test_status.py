"""`gpurack status` on real hosts: a healthy lab, and one in which things just broke."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Lab, chat, standard, status
from tests.testbed import Host
from tests.testbed.browser import browser

LAB = {"gpu4": standard()["gpu1"], "cpu4": standard()["cpu1"]}


@pytest.fixture(scope="module")
def inventory(lab: Lab, gpu4: Host, cpu4: Host) -> Path:
    """The standard lab, deployed."""
    file = lab.inventory(LAB)
    done = lab.run(file)
    assert done.exit_code == 0, done.output
    return file


def test_shows_healthy_lab(inventory: Path, gpu4: Host, cpu4: Host) -> None:
    chat(cpu4, 8000)
    begun = gpu4.root("date +%s").stdout.strip()
    found = status(inventory, "--json")
    assert (found.returncode, found.stderr) == (0, "")
    data = json.loads(found.stdout)
    assert data["summary"] == "4 of 4 models ready."
    here, there = data["hosts"]["gpu4"], data["hosts"]["cpu4"]
    assert [gpu["uuid"] for gpu in here["gpus"]] == gpu4.gpus.uuids
    assert {name: model["state"] for name, model in here["models"].items()} == dict.fromkeys(
        LAB["gpu4"]["models"], "ready"
    )
    said = float(
        cpu4.root("curl -s http://127.0.0.1:8000/metrics | sed -n 's/^llamacpp:tokens_predicted_total //p'").stdout
    )
    assert there["models"]["delta"]["served"] == {"count": said, "unit": "tokens"}
    assert said > 0
    assert gpu4.ssh_commands(float(begun)) == 1


def test_names_what_broke_and_exits_with_1(inventory: Path, gpu4: Host, cpu4: Host, tmp_path: Path) -> None:
    page = tmp_path / "lab.html"
    gpu4.root("docker pause alpha")
    gpu4.gpus.lose(2)
    cpu4.root("docker kill delta")
    try:
        found = status(inventory, "--html", str(page))
    finally:
        gpu4.gpus.reset()
        gpu4.root("docker unpause alpha")
        cpu4.root("docker start delta")
    assert found.returncode == 1
    lines = [" ".join(line.split()) for line in found.stdout.splitlines()]
    [alpha] = [line for line in lines if line.startswith("DOWN gpu4 alpha :8000")]
    assert alpha.endswith(": paused")
    [delta] = [line for line in lines if line.startswith("DOWN cpu4 delta :8000 since ")]
    assert "exited with code 137" in delta
    [lost] = [line for line in lines if line.startswith("DEGRADED gpu4 GPU 2 lost since ")]
    assert "Xid 79" in lost
    assert lost.endswith("Reboot the host. Affected models: beta.")
    assert lines[-1].startswith("2 of 4 models ready, 2 down. 1 host needs attention: gpu4. Checked ")
    looks_right(page)
    turns_red_when_old(page)


def looks_right(page: Path) -> None:
    """In a real browser, on a phone and a desktop, light and dark: all is visible, legible and within the page."""
    with browser() as chromium:
        for scheme in ("light", "dark"):
            for width in (360, 1440):
                tab = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
                asked: list[str] = []
                tab.on("request", lambda request, asked=asked: asked.append(request.url))
                tab.goto(page.as_uri())
                assert tab.get_by_text("GPU 2 lost since").is_visible()
                assert tab.get_by_text("DOWN: paused").is_visible()
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                back, front = tab.evaluate(
                    "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
                )
                assert (brightness(back) > 200) == (scheme == "light")
                assert abs(brightness(back) - brightness(front)) > 150
                cards = [box["x"] for section in tab.locator("section").all() if (box := section.bounding_box())]
                assert len(set(cards)) == (1 if width == 360 else 2)
                assert asked == [page.as_uri()]
                tab.close()


def turns_red_when_old(page: Path) -> None:
    """In a real browser: the page says how old it is, in red from 15 minutes on, so nobody trusts what has stopped."""
    text = page.read_text(encoding="utf-8")
    [checked] = re.findall(r'<time datetime="([^"]+)"', text)
    is_red = []
    with browser() as chromium:
        for minutes in (3, 20):
            copy = page.with_name(f"{minutes}.html")
            then = datetime.now(UTC) - timedelta(minutes=minutes)
            copy.write_text(text.replace(checked, then.isoformat()), encoding="utf-8")
            tab = chromium.new_page()
            tab.goto(copy.as_uri())
            shown = tab.locator("p:has(time)")
            assert f", {minutes} min ago" in shown.inner_text()
            red, green, blue = map(int, re.findall(r"\d+", shown.evaluate("each => getComputedStyle(each).color"))[:3])
            is_red.append(red > max(green, blue) + 60)
            tab.close()
    assert is_red == [False, True]


def brightness(colour: str) -> float:
    """0 to 255 of `rgb(r, g, b)`."""
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_shows_unreachable_host(inventory: Path, cpu4: Host) -> None:
    cpu4.stop()
    try:
        found = status(inventory, "--json")
    finally:
        cpu4.start()
    assert found.returncode == 1
    data: dict[str, Any] = json.loads(found.stdout)
    assert data["hosts"]["cpu4"]["state"] == "UNREACHABLE"
    assert data["hosts"]["gpu4"]["state"] == "ok"
    assert data["summary"] == "3 of 4 models ready, 1 unknown. 1 host needs attention: cpu4."
