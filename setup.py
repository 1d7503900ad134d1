"""Packaging; Dataflow workers install the project from here (`--setup_file=./setup.py`)."""

from setuptools import setup

setup(
    packages=[
        "schemas",
        "validation",
        "transforms",
        "transforms.embed",
        "transforms.index",
        "transforms.io",
        "transforms.stream",
        "pipelines",
        "jobs",
    ],
    include_package_data=False,  # package_data says it all; otherwise every folder of data passes for a package
    package_data={
        "schemas": ["*.json", "released/*/*.json"],
        "validation": ["*.toml"],
        "pipelines": ["*.css"],
        "jobs": ["*.toml"],
    },
)
