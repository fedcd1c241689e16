"""The umask and PATH with which every program of root's here starts and starts others.

Imported for that alone. Runs on the host's own python3 (3.6 or newer, standard library only)."""

import os

os.umask(0o022)  # root's may be 077: folders above ours, such as /usr/local/libexec, are for everyone
WSL = "/usr/lib/wsl/lib"  # has nvidia-smi there, and is not in the PATH of services
if os.path.isdir(WSL):
    os.environ["PATH"] = "{}:{}".format(os.environ.get("PATH", ""), WSL)
