"""The optional native part of bytemq; everything else about the package is in pyproject.toml.

Where no C compiler is at hand the package installs without it, and the modules *_pure.py in bytemq/protocol/records
do the work.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"bytemq.protocol.records.{name}",
            sources=[f"bytemq/protocol/records/{name}.c"],
            depends=["bytemq/protocol/records/_records.h"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
        for name in ("_walk", "_columns", "_offset_map")
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
