"""From pyinfra's data or a YAML file to a checked fleet: `Host` by name. No host is touched.

Open fleet.py first: `read_fleet` merges the layers, checks everything and raises all errors at once. load.py reads
files, checks/ has what concerns several entries or hosts, reference.py and schema.py describe the fields.
"""
