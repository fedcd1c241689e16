"""How fast gpurack is, each figure beside another that is measured in the same minutes on the same machine.

`python -m benchmarks` (make bench) runs all modules with `rows`, or those that it is given, and writes
docs/performance.md. measure.py has what they share, recorded.py a fleet without hosts.
"""
