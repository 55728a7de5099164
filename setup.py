"""Packages of the wheel: those under thinwire, and models/, which is put inside them as data."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["thinwire*"]), "thinwire.models"], package_dir={"thinwire.models": "models"})
