"""`gpurack status`: the whole lab at a glance, from one look at every host.

lab.py says what is the matter (pure), show.py prints it, page.py makes a page of it.
"""
