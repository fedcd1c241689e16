"""What holds on a host without cards, on one that no other suite uses."""
