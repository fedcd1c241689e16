"""From what people type (`docker run`, shell snippets, compose files, running containers) to inventory entries.

words.py and compose_file.py read text, docker_run.py and inspect.py make a `container.ContainerRun` of each container,
built.py says what an image was built from, to_inventory.py all of it in the inventory's words. What cannot be said, or
is said differently, becomes a `Finding`: nothing is dropped silently. Pure, all of it.
"""
