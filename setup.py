"""Packaging; Dataflow workers install the project from here (`--setup_file=./setup.py`)."""

from setuptools import setup

setup(
    packages=["schemas", "validation", "transforms", "transforms.io", "pipelines", "jobs"],
    package_data={
        "schemas": ["*.json", "released/*/*.json"],
        "validation": ["*.toml"],
        "pipelines": ["*.css"],
        "jobs": ["*.toml"],
    },
)
