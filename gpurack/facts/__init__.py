"""What a host says about itself, as types: `HostFacts`. Nothing here knows what the host should be.

Open model.py first; the types of its fields are in parts.py and gpus.py. snapshot.py fetches the text by one remote
command (files/snapshot.sh), parse.py parses it (its sections: system.py, docker.py, weights.py, nvidia.py, amd.py,
rpm.py), and record.py proves which containers gpurack created. Facts that root observed and facts from a user's Docker
are kept apart.
"""
