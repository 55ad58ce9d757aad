"""docs/configuration.md says what the program knows."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_configuration_page__is_up_to_date() -> None:
    tool = ROOT / "tools" / "generate_configuration_page.py"
    done = subprocess.run([sys.executable, tool, "--check"], check=False, cwd=ROOT)
    assert done.returncode == 0, f"run: python {tool.relative_to(ROOT)}"
