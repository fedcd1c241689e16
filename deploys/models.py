from gpurack.deploys import models

models()
