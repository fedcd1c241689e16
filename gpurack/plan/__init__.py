"""Pure functions: (spec, facts) → changes, each with its reason. Nothing here acts.

Open host.py first: `STAGES`, the one table of stages that deploys, `--dry`, `plan --live` and the docs read. packages/
is apt and rpm, system/ is Docker and its surroundings, models/ is what serves. runner.py builds the payload for the
runner on the host.
"""
