"""A hostile user on a real host: what eve can do with bob's account, and what the admin's commands make of it.

eve.py is what she does, programs/ what she runs there; admin.py runs the admin's commands and reads their screen;
evidence.py looks at the host past gpurack. Start with test_hostile_user.py.
"""
