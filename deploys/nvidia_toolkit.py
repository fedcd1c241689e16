from gpurack.deploys import nvidia_toolkit

nvidia_toolkit()
