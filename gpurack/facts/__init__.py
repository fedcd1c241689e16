"""What a host says of itself, typed: `HostFacts`. Nothing here knows what the host should be.

Open model.py first. snapshot.py fetches the text (one remote command, files/snapshot.sh), parse.py types it, record.py
proves which containers are ours. What root saw and what a user's Docker says are kept apart.
"""
