from gpurack.deploys import remove

remove()
