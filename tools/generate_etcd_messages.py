"""Writes bytemq/metadata/etcd/messages.proto and its Python module from etcd's own definitions.

    python tools/generate_etcd_messages.py FOLDER           # of go.etcd.io/etcd/api/v3
    python tools/generate_etcd_messages.py --check FOLDER   # writes nothing, fails when a file differs

The folder comes by `go mod download -json go.etcd.io/etcd/api/v3@v3.5.21`. Taken are the messages of the calls that we
make, and those that they need, with field numbers as they are and without the options that Go and the gateway want.
They get a package of their own, so that another etcd client in the same process cannot collide with it. Needs
grpcio-tools 1.76: what it makes works with protobuf 6.31 to 7.x.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "bytemq" / "metadata" / "etcd"
SOURCES = ("mvccpb/kv.proto", "authpb/auth.proto", "etcdserverpb/rpc.proto")
CALLS = ("Range", "Txn", "Watch", "Authenticate", "Status", "LeaseGrant", "LeaseRevoke", "LeaseKeepAlive")
WANTED = [f"{call}{way}" for call in CALLS for way in ("Request", "Response")]
HEAD = """\
// The part of etcd's API (v3.5, Apache-2.0) that bytemq uses. Made by tools/generate_etcd_messages.py: do not edit.
syntax = "proto3";
package bytemq.metadata.etcd;
"""
_OPENING = re.compile(r"^(?:message|enum) (\w+) \{", re.MULTILINE)


def definitions(text: str) -> dict[str, str]:
    """Top-level messages and enums by name."""
    found = {}
    for opening in _OPENING.finditer(text):
        depth, end = 0, opening.start()
        while depth or end <= opening.end():
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
            if depth == 0 and end > opening.end():
                break
        found[opening[1]] = _plain(text[opening.start() : end])
    return found


def _plain(definition: str) -> str:
    """Without comments, options and package names."""
    definition = re.sub(r"^\s*//.*\n", "", definition, flags=re.MULTILINE)
    definition = re.sub(r"[ \t]*//.*$", "", definition, flags=re.MULTILINE)
    definition = re.sub(r"^\s*option .*;\n", "", definition, flags=re.MULTILINE)
    definition = re.sub(r"\s*\[[^\]]*\];", ";", definition)
    definition = re.sub(r"\b(?:mvccpb|authpb)\.", "", definition)
    return re.sub(r"\n\s*\n", "\n", definition).replace("\t", "    ")


def needed(known: dict[str, str]) -> list[str]:
    """The wanted messages and all that they mention, in the order of etcd's files."""
    chosen: set[str] = set()
    open_ = list(WANTED)
    while open_:
        name = open_.pop()
        if name not in chosen:
            chosen.add(name)
            open_ += [word for word in re.findall(r"\b[A-Z]\w+\b", known[name]) if word in known]
    return [name for name in known if name in chosen]


def compiled(proto: str) -> dict[str, str]:
    """The Python module and its types, by file name."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "bytemq" / "metadata" / "etcd" / "messages.proto"
        source.parent.mkdir(parents=True)
        source.write_text(proto)
        include = str(resources.files("grpc_tools") / "_proto")
        arguments = ["protoc", f"-I{folder}", f"-I{include}", f"--python_out={folder}", f"--pyi_out={folder}"]
        if protoc.main([*arguments, str(source)]):
            raise SystemExit("protoc failed")
        return {path.name: path.read_text() for path in source.parent.iterdir()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    known: dict[str, str] = {}
    for source in SOURCES:
        known.update(definitions((options.folder / source).read_text()))
    proto = HEAD + "".join(f"\n{known[name]}\n" for name in needed(known))
    differing = []
    for name, text in compiled(proto).items():
        target = TARGET / name
        if not target.exists() or target.read_text() != text:
            differing.append(name)
            if not options.check:
                target.write_text(text)
    print(f"{'different' if options.check else 'written'}: {', '.join(differing) or 'nothing'}")
    return int(options.check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
