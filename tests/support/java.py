"""Programs for the Java virtual machine: jars by Maven, classes by javac, a process that can be killed.

Owns what they leave below `.interop/`, a folder for each project, made once. A project is a folder with a pom.xml that
names the jars and, if it has a program of ours, Java files below `src`. No Maven plug-in is needed to compile them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

DOWNLOADS = Path(__file__).resolve().parents[2] / ".interop"
EXIT_TIMEOUT_S = 60.0


class MissingTool(Exception):
    """A program that these tests need is not on this machine; the message says how to get it."""


def require_tool(name: str, hint: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingTool(f"{name} is missing: {hint}")
    return path


def fetch_jars(project: Path) -> str:
    """Class path of the jars that the project's pom.xml asks for."""
    require_tool("java", "install a Java 17 runtime or newer (apt-get install default-jre-headless)")
    pom = project / "pom.xml"
    folder = DOWNLOADS / project.name
    done = folder / ".complete"
    if not done.exists() or done.read_text() != pom.read_text():
        mvn = require_tool("mvn", "install Apache Maven (apt-get install maven)")
        shutil.rmtree(folder, ignore_errors=True)
        command = [mvn, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        done.write_text(pom.read_text())
    return f"{folder}/*"


def compile_project(project: Path) -> str:
    """Class path of the project's own classes and of its jars."""
    javac = require_tool("javac", "install a JDK 17 or newer (apt-get install default-jdk-headless)")
    class_path = fetch_jars(project)
    sources = sorted((project / "src").rglob("*.java"))
    classes = DOWNLOADS / f"{project.name}-classes"
    done = classes / ".complete"
    text = "".join(path.read_text() for path in sources) + class_path
    if not done.exists() or done.read_text() != text:
        shutil.rmtree(classes, ignore_errors=True)
        subprocess.run([javac, "-d", str(classes), "-cp", class_path, *map(str, sources)], check=True)
        done.write_text(text)
    return f"{classes}:{class_path}"


def java_command(class_path: str, main: str, *arguments: str, heap_mib: int = 512) -> list[str]:
    timed_logs = ["-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS"]
    return ["java", f"-Xmx{heap_mib}m", "-XX:+UseSerialGC", *timed_logs, "-cp", class_path, main, *arguments]


class JavaProcess:
    """A running program that writes to a log file. Gone at the end of the `with` block, whatever happened."""

    def __init__(self, command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def __enter__(self) -> JavaProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self.kill9()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def kill9(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        """Asks it to stop and waits until it has."""
        self._process.terminate()
        self._process.wait(EXIT_TIMEOUT_S)

    def wait_exit(self, timeout_s: float = EXIT_TIMEOUT_S) -> int:
        return self._process.wait(timeout_s)
