"""Every fault at every point of a deploy: one plain run must then reach what an undisturbed run reaches.

`deploys.py` has the deploys, `points.py` the points at which a run can be held, `strike.py` the faults, `manifest.py`
what a host is compared by. `states.py` saves the hosts from which trials begin, `bench.py` carries trials out,
`results.py` keeps and shows what was seen. `soak.py` makes random inventories and changes. docs/testing.md says what
this proves, docs/reliability.md what was seen.
"""
