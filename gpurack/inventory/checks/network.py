"""Whether mirrors, logins and the private authority of a host make sense. Pure but for the authority's file."""

import re

from gpurack.spec.host import Host
from gpurack.spec.problems import Problem, Wrong, nearest

URL_MIRRORS = ("docker-ce", "nvidia", "huggingface", "modelscope")
REGISTRY = re.compile(r"localhost|(?=.*[.:])[\w.-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?")
MIRROR_OF_A_REGISTRY = re.compile(r"([\w.-]+|\[[\da-fA-F:]+\])(:\d+)?(/[a-z0-9._/-]*)?")


def unused_logins(name: str, spec: Host) -> list[Problem]:
    """Errors of logins that are never used: with a scheme or path, or for a mirrored registry."""
    problems = []
    for registry in spec.registries:
        path, mirror = f"registries.{registry}", spec.mirrors.get(registry)
        if "/" in registry:
            registry_host = re.sub(r"^\w+://", "", registry).partition("/")[0]
            problems.append(Problem.of("registry-with-path", name, path, registry=registry_host))
        elif mirror:
            asked = mirror.url.partition("/")[0]
            problems.append(Problem.of("registry-behind-mirror", name, path, mirror=mirror.url, registry=asked))
    return problems


def unreadable_ca(name: str, spec: Host) -> list[Problem]:
    """The error of a `ca` file that cannot be read or contains no certificate."""
    try:
        spec.certificates()
    except OSError as error:
        return [Problem.of("ca-unreadable", name, "ca", file=spec.ca, why=error.strerror)]
    except UnicodeDecodeError:
        return [Problem.of("ca-not-text", name, "ca", file=spec.ca)]
    except Wrong as error:
        return [Problem.of(error.code, name, "ca", **error.parameters)]
    return []


def mirror_problems(name: str, spec: Host) -> list[Problem]:
    """Errors of mirrors: unknown names, invalid addresses, keys that cannot be read."""
    problems = []
    for key, mirror in spec.mirrors.items():
        path = f"mirrors.{key}"
        if key not in URL_MIRRORS and not REGISTRY.fullmatch(key):
            guess = nearest(key.lower(), URL_MIRRORS)
            bare = re.sub(r"^\w+://", "", key).partition("/")[0]
            hint = f'Did you mean "{guess}"?' if guess else f'Write "{bare}".' if bare != key else ""
            problems.append(Problem.of("unknown-mirror", name, path, hint=hint))
        elif problem := mirror_problem(key, mirror.url):
            problems.append(problem.at(name, path))
        try:
            mirror.read_key()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            problems.append(Problem.of("mirror-key-unreadable", name, f"{path}.key", file=mirror.key, why=why))
    return problems


def mirror_problem(key: str, url: str) -> Problem | None:
    """The error of a mirror's address; None when it is valid."""
    scheme, rest = (found[0], url[found.end() :]) if (found := re.match(r"\w+://", url)) else ("", url)
    if key not in URL_MIRRORS:
        if scheme:
            return Problem.of("mirror-with-scheme", scheme=scheme, rest=rest)
        if not MIRROR_OF_A_REGISTRY.fullmatch(url):
            return Problem.of("invalid-mirror-registry", value=url)
        return None
    if scheme not in ("http://", "https://"):
        return Problem.of("mirror-without-scheme", value=url, rest=rest)
    if not re.fullmatch(r"[^\s/?#]+(/\S*)?", rest):
        return Problem.of("invalid-mirror-url", value=url)
    return None
