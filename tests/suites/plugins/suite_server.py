"""Starts servers for the plugins beside it. Imports nothing of ours: a foreign suite has a package `tests` of its own.

SUITE_SERVE is the command (JSON list) that runs a server, SUITE_FOLDER where it runs; see tests/suites/serve.py.
"""

import json
import os
import signal
import subprocess


class SuiteServer:
    """One server on a port of 127.0.0.1, ready when the constructor returns."""

    def __init__(self, port, settings):
        options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        command = [*json.loads(os.environ["SUITE_SERVE"]), "--port", str(port), *options]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            command, cwd=os.environ["SUITE_FOLDER"], env=environment, stdout=subprocess.PIPE, text=True
        )
        line = self._process.stdout.readline()
        if not line.startswith("ready"):
            raise RuntimeError(f"the server did not start: {line!r}")

    def stop(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
