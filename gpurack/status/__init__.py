"""`gpurack status`: the state of the whole lab, from one snapshot per host.

lab.py decides what is wrong (pure); open it first. show.py prints tables or JSON; page.py writes the HTML page.
"""
