"""The old name of gpurack.inventory.fleet, for deploys of other projects."""

import warnings

from gpurack.inventory.fleet import read_fleet

__all__ = ["read_fleet"]
warnings.warn("gpurack.spec.fleet is now gpurack.inventory.fleet; change the import.", FutureWarning, stacklevel=2)
