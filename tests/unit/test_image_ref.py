"""Image references, by the rules of github.com/distribution/reference."""

import json
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpurack.spec.image_ref import ImageRef, same_repository, split
from tests.unit.host_programs import load

DIGEST = f"sha256:{'0f' * 32}"

component = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
repository = st.lists(component, min_size=1, max_size=4).map("/".join)
registry = st.sampled_from(
    [
        "docker.io",
        "index.docker.io",
        "ghcr.io",
        "localhost",
        "localhost:5000",
        "reg:5000",
        "10.0.0.1:80",
        "[::1]:5000",
        "LAB",
    ]
)
tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digest = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)


@st.composite
def references(draw: st.DrawFn) -> str:
    """References as users write them. A dot makes the first of several parts a registry, also without docker.io."""
    plain = repository.filter(lambda name: "/" not in name or "." not in name.partition("/")[0])
    text = draw(st.one_of(plain, st.tuples(registry, plain).map("/".join)))
    text += draw(st.one_of(st.just(""), tag.map(":{}".format)))
    return text + draw(st.one_of(st.just(""), digest.map("@{}".format)))


@given(references())
def test_every_spelling_is_the_same_image(text: str) -> None:
    image = ImageRef.parse(text)
    assert ImageRef.parse(image.canonical).canonical == image.canonical
    assert ImageRef.parse(image.familiar).name == image.name
    assert ImageRef.parse(image.name).name == image.name
    assert same_repository(text, image.familiar)


@given(references())
def test_keeps_every_part(text: str) -> None:
    image, (_, written_tag, written_digest) = ImageRef.parse(text), split(text)
    assert (image.tag, image.digest) == (written_tag or "", written_digest or "")
    assert image.canonical.startswith(f"{image.registry}/{image.repository}")
    assert image.registry != "index.docker.io"
    assert image.registry != "docker.io" or "/" in image.repository


@given(references(), st.sampled_from(["mirror:5000", "mirror:5000/hub", "mirror:5000/hub/"]))
def test_mirror_has_one_place_for_an_image(text: str, mirror: str) -> None:
    image = ImageRef.parse(text)
    at = ImageRef.parse(image.at(mirror))
    assert at == ImageRef.parse(ImageRef.parse(image.canonical).at(mirror)) or not (image.tag or image.digest)
    assert at.repository.endswith(image.repository)
    assert (at.tag, at.digest) == (image.tag, image.digest)


@given(st.text())
def test_any_text_is_a_reference_or_value_error(text: str) -> None:
    try:
        image = ImageRef.parse(text)
    except ValueError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_./:@\[\]-]+", text)
    assert len(image.name) <= 255


# The rows are facts of reference_test.go and normalize_test.go.
@pytest.mark.parametrize(
    ("text", "name", "familiar"),
    [
        ("redis", "docker.io/library/redis", "redis:latest"),
        ("test_com", "docker.io/library/test_com", "test_com:latest"),
        ("test.com:tag", "docker.io/library/test.com", "test.com:tag"),
        ("test.com:5000", "docker.io/library/test.com", "test.com:5000"),
        ("test.com/repo:tag", "test.com/repo", "test.com/repo:tag"),
        ("test:5000/repo", "test:5000/repo", "test:5000/repo:latest"),
        ("docker.io/library/redis:7", "docker.io/library/redis", "redis:7"),
        ("index.docker.io/library/redis", "docker.io/library/redis", "redis:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b:latest"),
        ("Uppercase/lowercase", "Uppercase/lowercase", "Uppercase/lowercase:latest"),
        ("localhost/a", "localhost/a", "localhost/a:latest"),
        ("[2001:db8::1]:5000/a", "[2001:db8::1]:5000/a", "[2001:db8::1]:5000/a:latest"),
        (f"a/b:1@{DIGEST}", "docker.io/a/b", f"a/b@{DIGEST}"),
    ],
)
def test_finds_full_and_familiar_name(text: str, name: str, familiar: str) -> None:
    assert (ImageRef.parse(text).name, ImageRef.parse(text).familiar) == (name, familiar)


@pytest.mark.parametrize(
    "text",
    [
        "", ":justtag", f"@{DIGEST}", "repo@sha256:ffff", "repo@md5:" + "0" * 32, "a/Upper", "lowercase:5000/Repo",
        "a//b", "a:", "a:1:2", "-foo/bar", "a--/b", "a___b", "https://a/b", "a b", "a\nb", "0f" * 32,
        "a/" + "b" * 256, "a:" + "t" * 129,
    ],
)  # fmt: skip
def test_refuses_what_docker_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an image reference"):
        ImageRef.parse(text)


@pytest.mark.parametrize("written", ["redis:7", "docker.io/redis:7", "docker.io/library/redis@sha256:" + "1" * 64])
def test_runner_knows_the_digest_of_its_image_by_any_spelling(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker lists `redis`, and first the name of a mirror that once had it, with another digest."""
    newest = load("newest")
    said = json.dumps([f"mirror:5000/library/redis@sha256:{2:064d}", f"redis@sha256:{1:064d}"])
    monkeypatch.setattr(newest, "Dockerd", lambda user: SimpleNamespace(must=lambda *words: said))
    monkeypatch.setattr(newest, "pull_alone", lambda *arguments: None)
    assert newest.digest({"user": "", "name": "a", "image": written}, {}) == f"sha256:{1:064d}"
