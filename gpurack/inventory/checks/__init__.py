"""What one entry alone cannot know: other entries, other hosts, the GPUs. Each module returns `Problem`s.

Errors forbid a run; warnings.py has what works but may hurt one day. `read_fleet` calls all that are errors.
"""
