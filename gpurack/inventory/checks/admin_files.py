"""Whether the files of the admin's machine that a host gets can be read: image tars, copied weights."""

from gpurack.engines import weights_of
from gpurack.spec import image_tar, local_files
from gpurack.spec.host import Host
from gpurack.spec.image import TarImage
from gpurack.spec.problems import Problem
from gpurack.spec.weights import CopyWeights


def unreadable_images(name: str, spec: Host) -> list[Problem]:
    """Errors of image tars that cannot be read, or do not contain exactly one image."""
    problems = []
    for key, entry in spec.everything.items():
        if not (entry.enabled and isinstance(entry.image, TarImage)):
            continue
        path = f"{spec.kind_of(key)}.{key}.image.tar"
        try:
            image_tar.read(entry.image.source)
        except OSError as error:
            why = error.strerror
            problems.append(Problem.of("image-tar-unreadable", name, path, file=entry.image.source, why=why))
        except ValueError as error:
            problems.append(Problem.of("image-tar-invalid", name, path, file=entry.image.source, what=error))
    return problems


def unreadable_copies(name: str, spec: Host) -> list[Problem]:
    """Errors of weights to copy that are missing, empty or unreadable on the admin's machine."""
    problems = []
    enabled = [(key, entry) for key, entry in spec.everything.items() if entry.enabled]
    named = [(key, weights) for key, entry in enabled for weights in weights_of(entry)]
    copied = [(key, weights) for key, weights in named if isinstance(weights, CopyWeights)]
    for key, weights in copied:
        field = "weights" if weights == spec.everything[key].weights else "config"
        path = f"{spec.kind_of(key)}.{key}.{field}.copy"
        try:
            source = weights.source
            if not source.exists():
                problems.append(Problem.of("copy-missing", name, path, file=source))
            elif not local_files.files_of(source):
                problems.append(Problem.of("copy-empty", name, path, file=source))
            elif missing := local_files.missing_parts(source):
                parts = f"{missing} part{'s' if missing > 1 else ''}"
                problems.append(Problem.of("copy-parts-missing", name, path, parts=parts, file=source.name))
            else:
                local_files.content(source)
        except OSError as error:
            problems.append(Problem.of("copy-unreadable", name, path, file=error.filename, why=error.strerror))
    return problems
