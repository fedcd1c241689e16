"""The `gpurack` command: the arguments of every verb, and what each verb does. What they share: connect.py, lab.py.

Arguments are in planning.py, observing.py, day_two.py, inventories.py and pinning.py; each imports its work when it is
called. Open main.py first: the list of verbs.
"""
