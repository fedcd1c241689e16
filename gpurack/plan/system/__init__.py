"""What a host needs before a model can run: Docker, the NVIDIA Container Toolkit, daemon.json, rootless Dockers.

Open docker.py first. gpu_access.py decides how containers get GPUs, restart.py whether Docker may restart.
"""
