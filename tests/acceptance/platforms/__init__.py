"""What holds on every kind of host, on the testbed (`make test-platforms`)."""
