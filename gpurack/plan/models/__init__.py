"""The containers of a host: what each should be, how it differs, what stands in the way, what happens.

Open plan.py first: `plan_models`. desired.py builds each service once; ledger.py gives the GPUs; diff.py compares;
preflight.py refuses; compose.py writes compose.yaml; jobs.py does the same for what runs once.
"""
