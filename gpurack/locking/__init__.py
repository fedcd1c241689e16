"""`gpurack lock` and `gpurack manifest`: what really is on hosts, written down, compared, and moved on purpose."""
