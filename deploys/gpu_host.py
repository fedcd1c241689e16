from gpurack.deploys import gpu_host

gpu_host()
