"""The implementations of the walk that can run here: the Python one, and the native one, built if not installed."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from bytemq.protocol.records import walk_pure

SOURCE = Path(walk_pure.__file__).with_name("_walk.c")


def implementations() -> list[ModuleType]:
    native = _installed() or _compiled()
    return [walk_pure] if native is None else [walk_pure, native]


def _installed() -> ModuleType | None:
    try:
        from bytemq.protocol.records import _walk
    except ImportError:
        return None
    return _walk


def _compiled() -> ModuleType | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = sysconfig.get_path("include")
    if compiler is None or not Path(headers, "Python.h").exists():
        return None
    library = Path(tempfile.mkdtemp()) / "_walk.abi3.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-DPy_LIMITED_API=0x030B0000"]
    subprocess.run([*command, f"-I{headers}", str(SOURCE), "-o", str(library)], check=True)
    loader = importlib.machinery.ExtensionFileLoader("_walk", str(library))
    spec = importlib.util.spec_from_loader("_walk", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    shutil.rmtree(library.parent)
    return module
