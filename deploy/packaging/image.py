"""Takes out of an image's archive what differs from build to build: the name of the container that it was
built in. So the same content has the same digest.

usage: image.py ARCHIVE (in the format of `docker save`), changed in place; prints the image's id
"""

import hashlib
import io
import json
import os
import sys
import tarfile


def main(path):
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
    (image,) = json.loads(files["manifest.json"])
    config = json.loads(files.pop(image["Config"]))
    config.pop("container", None)
    for section in ("config", "container_config"):
        config.get(section, {}).pop("Hostname", None)
    content = json.dumps(config, sort_keys=True).encode()
    identifier = hashlib.sha256(content).hexdigest()
    image["Config"] = f"{identifier}.json"
    kept = {name: files[name] for name in image["Layers"]}
    kept[image["Config"]] = content
    kept["manifest.json"] = json.dumps([image], sort_keys=True).encode()

    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(kept):
            entry = tarfile.TarInfo(name)
            entry.size = len(kept[name])
            entry.mtime = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(kept[name]))
    print(identifier)


if __name__ == "__main__":
    main(sys.argv[1])
