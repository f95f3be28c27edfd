"""The name that Beam's --setup_file asks for; everything about the package stands in pyproject.toml."""

from setuptools import setup

setup()
