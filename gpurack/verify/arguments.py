"""The arguments by which tests ask for hosts and models."""

HOST, MODEL = ARGUMENTS = ("gpurack_host", "gpurack_model")
