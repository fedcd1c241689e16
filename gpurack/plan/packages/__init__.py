"""Packages and their repositories, by apt, dnf or yum: versions, holds, keys.

Open platforms.py first: the table of supported systems. base.py has what all package managers share. package_errors.py
explains why one failed.
"""
