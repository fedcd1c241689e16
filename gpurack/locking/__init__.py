"""`gpurack lock` and `gpurack manifest`: pin what is on the hosts, compare with the pins, move them.

Open observe.py first: from facts to a lock. upgrade.py and manifest.py are also pure; gather.py runs commands on hosts.
The lock's types are in gpurack/spec, its file in gpurack/inventory.
"""
