"""Maps the data in `data/` that the library reads into the package. Everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["chunkkv_lib*"]), "chunkkv_lib.data"],
    package_dir={"chunkkv_lib.data": "data"},
    package_data={
        "": ["assets/*", "*.yml", "sheets/*.yml", "templates/*", "*.txt"],
        "chunkkv_lib.data": ["profiles/*.yml", "paper/*.csv", "models/*.csv", "plan.yml"],
    },
)
