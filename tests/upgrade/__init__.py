"""gpurack itself is upgraded: a host that an older commit deployed, by that commit's own code, meets this tree."""
