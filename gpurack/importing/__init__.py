"""`gpurack import`: convert `docker run` commands, shell scripts, compose files and running containers to entries.

Open reader.py first. words.py and compose_file.py read text; docker_run.py and inspect.py make a `ContainerRun` of each
container; built.py finds what an image was built from. to_inventory.py converts a run to an entry in the steps image,
command, weights, GPUs, address, arguments, rest. What was converted differently or not at all becomes a `Finding`.
accepted.py disables what `gpurack plan` would refuse.
"""
