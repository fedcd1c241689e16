"""Tests on a host without GPUs, which no other suite uses."""
