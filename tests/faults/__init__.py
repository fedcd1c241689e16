"""Every fault at every point of a deploy: one plain run must then reach what an undisturbed run reaches.

`points.py` has the deploys and the points at which a run can be held, `strike.py` the faults, `manifest.py` what a host
is compared by. `bench.py` carries out trials, `results.py` keeps and shows what was seen. `soak.py` makes random
inventories and changes. docs/testing.md says what this proves, docs/reliability.md what was seen.
"""
