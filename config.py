"""pyinfra runs this file of the current folder first. A project of your own that uses gpurack wants the same lines."""

try:
    from gpurack.pyinfra_patches import guard
except ImportError as error:
    import sys

    import pyinfra

    raise SystemExit(
        f"error  the pyinfra that runs here ({pyinfra.__version__}, of {sys.prefix}) has no gpurack, or does not fit "
        f"it ({error}). Run `source .venv/bin/activate`, or `gpurack apply` in its place."
    ) from None

guard()
