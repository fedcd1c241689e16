"""The containers of a host: what each should be, how it differs, what blocks it, what happens to it.

Open plan.py first: `plan_models`. desired.py builds each service once. ledger.py assigns the GPUs. diff.py compares.
preflight.py finds what blocks a change. compose.py writes compose.yaml. jobs.py does the same for jobs.
"""
