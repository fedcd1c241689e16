from gpurack.deploys import docker

docker()
