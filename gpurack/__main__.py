"""`python -m gpurack`: the `gpurack` command of this Python."""

import sys

try:
    from gpurack.commands.main import main
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] == "gpurack":
        raise
    sys.exit(
        f"error: this Python ({sys.executable}) has no {error.name}, which gpurack needs. Activate gpurack's virtual "
        "environment: source .venv/bin/activate"
    )

if __name__ == "__main__":
    main(prog_name="gpurack")
