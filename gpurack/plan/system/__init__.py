"""What a host needs before a model can run: Docker, NVIDIA's toolkit, daemon.json, rootless Docker.

Open docker.py first. gpu_access.py decides how containers get GPUs, restart.py whether Docker may restart.
"""
