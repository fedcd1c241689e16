"""What holds for the serving engines, on the testbed (`make test-engines`)."""
