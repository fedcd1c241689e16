"""pyinfra operations, one for each stage. They carry out plans and decide nothing.

Open carry_out.py first. run_state.py has `HostRun`, everything that a run remembers about a host. output.py parses
what a command there printed. report.py prints the table at the end.
"""
