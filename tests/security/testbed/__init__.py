"""A hostile user on a real host: what eve can do with bob's account, and how the admin's commands react.

Start with test_hostile_user.py. eve.py has her attacks, programs/ what she runs on the host; admin.py runs the admin's
commands and reads their screen; evidence.py inspects the host without gpurack.
"""
