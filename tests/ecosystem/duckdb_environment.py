"""DuckDB with its extensions for Iceberg, S3 and TPC-H, in an environment of its own, made once below `.interop/`.

They are on PyPI for some versions of DuckDB, seldom for the newest, which SQL of ours runs on.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

from tests.support.java import DOWNLOADS

VERSION = "1.5.5"
EXTENSIONS = ("avro", "httpfs", "iceberg", "tpch")
READER = Path(__file__).with_name("duckdb_reader.py")


def duckdb_rows(*arguments: str) -> Iterator[list[str]]:
    """What the reader prints, in columns."""
    done = subprocess.run([duckdb_python(), str(READER), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return (line.split("\t") for line in done.stdout.splitlines())


def duckdb_python() -> str:
    folder = DOWNLOADS / f"duckdb-{VERSION}"
    python, done = str(folder / "bin" / "python"), folder / ".complete"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        wanted = [f"duckdb=={VERSION}", *(f"duckdb-extension-{name}=={VERSION}" for name in EXTENSIONS)]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
        done.touch()
    return python
