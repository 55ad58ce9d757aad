"""The implementations of a native part that can run here: the Python one, and the native one, built if not
installed."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

PROTOCOL = "bytemq.protocol"


def implementations(name: str = "walk", package: str = f"{PROTOCOL}.records") -> list[ModuleType]:
    pure = importlib.import_module(f"{package}.{name}_pure")
    native = native_part(name, package)
    return [pure] if native is None else [pure, native]


def native_part(name: str, package: str = PROTOCOL) -> ModuleType | None:
    """None where it can neither be found nor built."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    return _installed(f"{package}._{name}") or _compiled(name, folder / f"_{name}.c")


def _installed(module: str) -> ModuleType | None:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _compiled(name: str, source: Path) -> ModuleType | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    headers = sysconfig.get_path("include")
    if compiler is None or not Path(headers, "Python.h").exists():
        return None
    library = Path(tempfile.mkdtemp()) / f"_{name}.abi3.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-DPy_LIMITED_API=0x030B0000"]
    subprocess.run([*command, f"-I{headers}", str(source), "-o", str(library)], check=True)
    loader = importlib.machinery.ExtensionFileLoader(f"_{name}", str(library))
    spec = importlib.util.spec_from_loader(f"_{name}", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    shutil.rmtree(library.parent)
    return module
