"""The optional native part of bytemq; everything else about the package is in pyproject.toml.

Where no C compiler is at hand the package installs without it: the modules *_pure.py in bytemq/protocol/records do the
work then, and the Python code beside what `_produced.c` knows.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"bytemq.protocol.{name}",
            sources=[f"bytemq/protocol/{name.replace('.', '/')}.c"],
            depends=["bytemq/protocol/records/_records.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
        for name in ("_produced", "records._walk", "records._columns", "records._offset_map")
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
