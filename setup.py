"""Packaging of gnnsoup_hpc; the tools' settings stand in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "gnnsoup_hpc" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="gnnsoup_hpc",
    version=VERSION,
    description="Souping graph neural networks at scale: train on many ranks, mix into one model",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    # The folders jobs/ and slurm/ at the top are also the package's own folders of bundled jobs and batch scripts.
    packages=[*find_packages(include=["gnnsoup_hpc", "gnnsoup_hpc.*"]), "gnnsoup_hpc.jobs", "gnnsoup_hpc.slurm"],
    package_dir={"gnnsoup_hpc.jobs": "jobs", "gnnsoup_hpc.slurm": "slurm"},
    package_data={
        "gnnsoup_hpc": ["data/*", "analysis/report/page/page.*", "py.typed", "*.pyi"],
        "gnnsoup_hpc.jobs": ["*.toml", "studies/*"],
        "gnnsoup_hpc.slurm": ["*.sh", "*.def"],
    },
    install_requires=[
        "torch>=2.6",
        "torch_geometric>=2.6",
        "numpy>=2.0",
        "scipy>=1.11",
        "h5py>=3.10",
        "pymetis>=2025.2",
        "mpi4py>=4.0",
        "numba>=0.61",
        "threadpoolctl>=3.5",
        "ogb>=1.3.6",
        "pandas>=2.2",
        "pydantic>=2.7",
        "tomli-w>=1.0",
        "tqdm>=4.66",
    ],
    extras_require={
        # An MPI library and mpirun from PyPI, for machines that have none of their own.
        "mpi": ["mpich>=4.2"],
        # Soups exported as .safetensors.
        "safetensors": ["safetensors>=0.4"],
        # Reports' tables as Parquet; reports by xarray.
        "io": ["pyarrow>=17", "xarray>=2024.7", "h5netcdf>=1.4"],
        # Reports as pages and pictures; in colours on a terminal.
        "report": ["matplotlib>=3.8", "jinja2>=3.1", "rich>=13.7"],
        # Kernels for GPUs. PyTorch's CUDA builds bring theirs; it runs them on a CPU too, for tests.
        "gpu": ["triton>=3.5; sys_platform == 'linux'"],
        # The pages of docs/ as a site: make docs.
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],
        "dev": [
            "triton; sys_platform == 'linux'",
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "mypy",
            "ruff",
            "scikit-learn",
            "types-tqdm",
            "safetensors",
            "pyarrow",
            "xarray",
            "h5netcdf",
            "matplotlib",
            "jinja2",
            "rich",
        ],
    },
    entry_points={"console_scripts": ["gnnsoup = gnnsoup_hpc.__main__:main"]},
)
