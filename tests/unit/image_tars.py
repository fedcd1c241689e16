"""Small tar files in the format of `docker save`."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

CONFIG = b'{"architecture": "amd64"}'
ID = hashlib.sha256(CONFIG).hexdigest()


def save(path: Path, *names: str, mode: str = "w", images: int = 1, content: bytes = CONFIG) -> Path:
    """A tar with images of these names, in the layout of Docker 25 and newer."""
    image_id = hashlib.sha256(content).hexdigest()
    manifest = [{"Config": f"blobs/sha256/{image_id}", "RepoTags": list(names) or None, "Layers": []}] * images
    with tarfile.open(path, mode) as tar:
        for name, data in (
            (f"blobs/sha256/{image_id}", content),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
