"""Builds the host's record of gpurack's containers again where it lacks some.

A part of models.py; runs on the host's own python3 (3.6 or newer, standard library only).
"""

import contextlib
import os

import record
from accounts import exists
from compose_yaml import services_of
from dockerd import OF_IMAGE, Dockerd, folder_of
from messages import Failure
from paths import JOB_LABEL, MODEL_LABEL


def ensure_record(ours):
    """Create the host's record for users that have none (first run after an upgrade, restored disk).

    It is built from the containers that the plan attributes to gpurack by Compose's labels. A container that an admin
    recreated by Compose gets its new id. ours: user → name → id. Only root's own Docker is asked for more."""
    record.prune(exists)
    known, vouched = (record.load() or {"containers": {}})["containers"], []
    for name, container in ours.get("", {}).items():
        old = known.get("", {}).get(name, {}).get("id")
        if old and old != container and record.is_id(container) and took_its_place(old, container):
            record.created("", name, container)
    for user in ours.keys() - known.keys():
        services = services_of(os.path.join(folder_of(user), "compose.yaml")) or {}
        for name, container in ours[user].items():
            labels = {}
            with contextlib.suppress(Failure):
                labels = {} if user else (Dockerd().inspect(container) or {}).get("labels", {})
            kind = "job" if JOB_LABEL in labels else "model"
            definition = str(labels.get(JOB_LABEL, "")) or record.digest(labels.get(MODEL_LABEL))
            key = services.get(name, (name, ""))[0]
            vouched.append((user, name, container, kind, definition, key))
    if vouched:
        record.rebuild(vouched)


def took_its_place(old, container):
    """Did Compose create this container after the old one was removed (as is_ours in gpurack/facts/record.py)?"""
    dockerd = Dockerd()
    with contextlib.suppress(Failure):
        found = dockerd.inspect(container)
        made_of = found["labels"].get(OF_IMAGE) if found else None
        return made_of is not None and made_of == found["image"] and dockerd.inspect(old) is None
    return False
