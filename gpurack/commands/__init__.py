"""The `gpurack` command: one module for each verb. What they share: connect.py.

Open main.py first: the arguments of every verb.
"""
