"""Upgrades of gpurack itself: a host deployed by an older commit's own code, and then by this tree."""
