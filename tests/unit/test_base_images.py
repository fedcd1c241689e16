"""Which images a Dockerfile builds from."""

import pytest

from tests.unit.host_programs import load


@pytest.mark.parametrize(
    ("text", "args", "found"),
    [
        ("FROM ubuntu:24.04\nRUN true", {}, ["ubuntu:24.04"]),
        ("# FROM b\nfrom --platform=$X reg.example/a:1 as build\nFROM build\nFROM scratch", {}, ["reg.example/a:1"]),
        ("ARG BASE=reg.example/a\nARG TAG\nFROM ${BASE}:$TAG", {"TAG": "2"}, ["reg.example/a:2"]),
        ("ARG BASE=reg.example/a\nFROM ${BASE}", {"BASE": "nvcr.io/b"}, ["nvcr.io/b"]),
        ('ARG HOST="reg.example" NAME=a\nARG BASE=$HOST/$NAME\nFROM "${BASE:-other}"', {}, ["reg.example/a"]),
        ("FROM ${BASE:-reg.example/a}${TAG:+:$TAG}", {}, ["reg.example/a"]),
        ("FROM \\\n  reg.example/a \\\n  AS x\nCOPY --chown=1 --from=X /a /b", {}, ["reg.example/a"]),
        ("FROM a\nCOPY --from=reg.example/b /a /b\nCOPY --from=0 /a /b", {}, ["a", "reg.example/b"]),
        ("FROM a\nRUN --mount=type=bind,from=reg.example/b,target=/x make", {}, ["a", "reg.example/b"]),
        ("# syntax=reg.example/dockerfile:1\nFROM a", {}, ["reg.example/dockerfile:1", "a"]),
        ("", {}, []),
        ("FROM", {}, []),
    ],
)  # fmt: skip
def test_finds_the_images(text: str, args: dict[str, str], found: list[str]) -> None:
    assert load("base_images").base_images(text, args) == found
