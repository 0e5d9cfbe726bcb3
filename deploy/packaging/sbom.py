"""Writes the bill of materials (CycloneDX 1.5) of what is shipped: the program without the rehearsal.

It lists exactly the packages that cargo compiles into it for this machine, with the licence that each
declares and the checksum in Cargo.lock.
"""

import json
import os
import platform
import subprocess
import tomllib
from datetime import datetime, timezone


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def shipped(metadata):
    """The ids that the program reaches through normal dependencies, and their own dependencies."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    # Procedural macros run in the compiler; nothing of them is in the program.
    macros = {
        package["id"]
        for package in metadata["packages"]
        if any("proc-macro" in target["kind"] for target in package["targets"])
    }
    root = metadata["resolve"]["root"]
    edges, queue = {}, [root]
    while queue:
        node = queue.pop()
        if node in edges:
            continue
        edges[node] = sorted(
            dependency["pkg"]
            for dependency in nodes[node]["deps"]
            if dependency["pkg"] not in macros
            and any(kind["kind"] is None for kind in dependency["dep_kinds"])
        )
        queue.extend(edges[node])
    return root, edges


def main():
    target = f"{platform.machine()}-unknown-linux-gnu"
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--no-default-features"]
    output = subprocess.run([*command, f"--filter-platform={target}"], check=True, stdout=subprocess.PIPE)
    metadata = json.loads(output.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    with open("Cargo.lock", "rb") as lock:
        locked = tomllib.load(lock)["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in locked}
    root, edges = shipped(metadata)

    def component(identifier, kind):
        package = packages[identifier]
        result = {
            "type": kind,
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
        }
        if package["license"]:
            result["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        checksum = checksums[package["name"], package["version"]]
        if checksum:
            result["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return result

    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(root, "application"),
        },
        "components": [component(it, "library") for it in sorted(edges) if it != root],
        "dependencies": [
            {"ref": purl(packages[it]), "dependsOn": [purl(packages[on]) for on in edges[it]]}
            for it in sorted(edges)
        ],
    }
    print(json.dumps(bill, indent=2))


if __name__ == "__main__":
    main()
