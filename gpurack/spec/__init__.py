"""The inventory's vocabulary as types, and nothing else: what may be written, never whether a host can do it.

Open host.py first: a `Host` has its Docker, its models, services and jobs (model.py). Reading and checking
inventories is in gpurack/inventory.
"""
