#!/usr/bin/env python3
"""Writes container images into one OCI layout, from lines on standard input.

Each line is `REFERENCE<TAB>ENTRYPOINT as JSON<TAB>LAYER…`; a layer is a folder (its whole tree) or
a comma-separated list of DESTINATION=FILE. A layer asked for twice is made once.
"""

import hashlib
import json
import os
import sys
import tarfile
import zlib

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Squeeze:
    """A sink that compresses what it is given and knows the digests of both sides.

    Lightly (level 1): every node of the lab unpacks it on the same few cores.
    """

    def __init__(self, path):
        self.file = open(path, "wb")
        self.gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
        self.plain, self.packed = hashlib.sha256(), hashlib.sha256()

    def write(self, data):
        self.plain.update(data)
        self._out(self.gzip.compress(data))
        return len(data)

    def _out(self, data):
        self.packed.update(data)
        self.file.write(data)

    def close(self):
        self._out(self.gzip.flush())
        self.file.close()


def steady(info):
    """The same content gives the same digest, whenever and by whomever it is packed."""
    info.mtime = 0
    info.uname = info.gname = ""
    return info


def without_kernel(info):
    top = info.name.split("/")
    return None if len(top) > 1 and top[0] in ("dev", "proc", "sys") else steady(info)


def pack(tar, spec):
    if os.path.isdir(spec):
        for name in sorted(os.listdir(spec)):
            tar.add(os.path.join(spec, name), arcname=name, filter=without_kernel)
        return
    for pair in spec.split(","):
        destination, source = pair.split("=", 1)
        info = steady(tar.gettarinfo(source, arcname=destination.strip("/")))
        info.uid = info.gid = 0
        info.mode = 0o755
        with open(source, "rb") as content:
            tar.addfile(info, content)


class Layout:
    def __init__(self, path):
        self.path, self.blobs, self.layers, self.index = path, os.path.join(path, "blobs/sha256"), {}, []
        os.makedirs(self.blobs)

    def layer(self, spec):
        if spec not in self.layers:
            temporary = os.path.join(self.blobs, "next")
            sink = Squeeze(temporary)
            with tarfile.open(fileobj=sink, mode="w|", format=tarfile.GNU_FORMAT) as tar:
                pack(tar, spec)
            sink.close()
            digest, size = sink.packed.hexdigest(), os.path.getsize(temporary)
            os.rename(temporary, os.path.join(self.blobs, digest))
            described = {"mediaType": LAYER, "digest": "sha256:" + digest, "size": size}
            self.layers[spec] = described, "sha256:" + sink.plain.hexdigest()
        return self.layers[spec]

    def json(self, kind, value):
        data = json.dumps(value, sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.blobs, digest), "wb") as blob:
            blob.write(data)
        return {"mediaType": kind, "digest": "sha256:" + digest, "size": len(data)}

    def image(self, architecture, reference, entrypoint, specs):
        layers = [self.layer(spec) for spec in specs]
        run = {"Env": [PATH]}
        if entrypoint:
            run["Entrypoint"] = entrypoint
        config = self.json(CONFIG, {
            "architecture": architecture, "os": "linux", "config": run,
            "rootfs": {"type": "layers", "diff_ids": [plain for _, plain in layers]},
        })
        manifest = self.json(MANIFEST, {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [described for described, _ in layers],
        })
        manifest["annotations"] = {"org.opencontainers.image.ref.name": reference}
        self.index.append(manifest)

    def close(self):
        for name, value in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", {"schemaVersion": 2, "manifests": self.index}),
        ):
            with open(os.path.join(self.path, name), "w", encoding="utf-8") as file:
                json.dump(value, file)


def main():
    layout = Layout(sys.argv[1])
    for line in sys.stdin:
        reference, entrypoint, *layers = line.rstrip("\n").split("\t")
        layout.image(sys.argv[2], reference, json.loads(entrypoint), layers)
    layout.close()


main()
