"""How the programs that stand before runc find and become it."""

import os
import sys


def become(names, arguments):
    """exec the first of these programs that PATH has; does not return."""
    for name in names:
        for folder in os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").split(":"):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                sys.stdout.flush()
                os.execv(path, [path, *arguments])
    raise FileNotFoundError(f"no runtime binary found from candidate list: [{' '.join(names)}]")
