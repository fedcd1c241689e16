from gpurack.deploys import rollback

rollback()
