"""config.toml of NVIDIA's container runtime hook. Pure."""

import re


def without_cgroups(text: str) -> str:
    """Return the hook's configuration with no-cgroups on. Everything else stays, also comments.

    >>> without_cgroups("[nvidia-container-cli]\\n#no-cgroups = false\\nload-kmods = true\\n")
    '[nvidia-container-cli]\\nno-cgroups = true\\nload-kmods = true\\n'
    """
    section = re.search(r"(?ms)^\[nvidia-container-cli\][^\n]*\n(.*?)(?=^\[|\Z)", text)
    if not section:
        return (
            f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}[nvidia-container-cli]\nno-cgroups = true\n"
        )
    begin, end = section.span(1)
    inside = section[1]
    for pattern in (r"(?m)^[ \t]*no-cgroups[ \t]*=[ \t]*\w+", r"(?m)^[ \t]*#[ \t]*no-cgroups[ \t]*=[ \t]*\w+"):
        if re.search(pattern, inside):
            return text[:begin] + re.sub(pattern, "no-cgroups = true", inside, count=1) + text[end:]
    return f"{text[:begin]}no-cgroups = true\n{text[begin:]}"
