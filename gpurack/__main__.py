"""`python -m gpurack`: the `gpurack` command of this Python."""

from gpurack.commands.main import main

if __name__ == "__main__":
    main(prog_name="gpurack")
