"""The old name of gpurack.pyinfra_patches, for projects whose config.py has it."""

import warnings

from gpurack.pyinfra_patches import guard

__all__ = ["guard"]
warnings.warn("gpurack.guard is now gpurack.pyinfra_patches; change the import.", FutureWarning, stacklevel=2)
