"""The optional native part of bytemq; everything else about the package is in pyproject.toml.

Where no C compiler is at hand the package installs without it: the modules *_pure.py beside each do the work then, and
the Python code beside what `_produced.c` knows.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"bytemq.{name}",
            sources=[f"bytemq/{name.replace('.', '/')}.c"],
            depends=["bytemq/protocol/records/_records.h", "bytemq/protocol/records/_utf8.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
        for name in (
            "protocol._produced",
            "protocol.records._walk",
            "protocol.records._columns",
            "protocol.records._offset_map",
            "storage.parquet._plain_documents",
            "storage.stores._file_writer",
            "storage.wal._heads",
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
