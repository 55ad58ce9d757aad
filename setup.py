"""The optional native part of bytemq; everything else about the package is in pyproject.toml.

Where no C compiler is at hand the package installs without it, and bytemq/protocol/records/walk_pure.py does the work.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "bytemq.protocol.records._walk",
            sources=["bytemq/protocol/records/_walk.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
