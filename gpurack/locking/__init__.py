"""`gpurack lock` and `gpurack manifest`: pin what is on the hosts, compare with the pins, move them.

Open cli.py first. observe.py (from a snapshot to a lock), upgrade.py and manifest.py are pure; gather.py and ask.py run
commands on hosts. The lock's types and file are in spec/.
"""
