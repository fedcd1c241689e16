"""The `gpurack` command: the arguments of every verb, and what each verb does. What they share: connect.py, lab.py.

Arguments are in planning.py, observing.py, day_two.py, inventories.py and pinning.py; each imports its work when it is
called. Open main.py first: the list of verbs.
"""

import os
import sys


def open_closed_streams() -> None:
    """Open /dev/null for a standard stream that is closed, as by `>&-`, where Python has None.

    pyinfra needs both outputs when it is imported, and the next file that is opened would be taken for the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


open_closed_streams()
