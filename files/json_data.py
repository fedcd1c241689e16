"""JSON from programs, files and answers as plain data, whatever it holds.

A part of the models' runner, on the host's own python3 (3.6 or newer, standard library only)."""

import json

DIGITS = 40  # of an integer


def parsed(text):
    """JSON as data. None where it is invalid, nested too deeply, or holds an integer of more than DIGITS digits."""
    try:
        return json.loads(text, parse_int=integer)
    except (ValueError, RecursionError):
        return None


def integer(digits):
    """An integer of JSON. Raises ValueError for a long one: before 3.11, Python needs minutes for a million digits."""
    if len(digits) > DIGITS:
        raise ValueError("an integer of {} digits".format(len(digits)))
    return int(digits)
