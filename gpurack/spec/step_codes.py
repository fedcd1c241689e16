"""Every kind of failure of a program on a host (files/): its stable code, its cause and its fix.

The program names the code, and its own message is shown (files/messages.py: Failure). `step-failed`, in live_codes.py,
is for a command that names none, such as apt, and for the runner of an older gpurack.
"""

from collections.abc import Mapping

from gpurack.spec.code import Code


def _step(cause: str, fix: str) -> Code:
    return Code("{what}", "", cause, fix)


WEIGHTS: Mapping[str, Code] = {
    "download-failed": _step(
        "A server or hub did not send the weights: it is not reachable, has an error, or limits requests.",
        "Check the host's network, `proxy`, `ca` and `mirrors`, then run again: downloads are resumed.",
    ),
    "hub-refused": _step(
        "The hub has no such repository, file or revision, or this token may not read it.",
        "Correct `hf`, `modelscope`, `revision` or `file`. For a gated one, accept its terms and set `hf_token`.",
    ),
    "no-weights-in-repository": _step(
        "The repository has no file that the engine loads, has several, or lists a name that is not valid.",
        "Correct the repository's name, or choose a file with `file`.",
    ),
    "weights-do-not-match": _step(
        "The weights have another sha256 than the inventory, the lock or the hub says.",
        "Restore the old file, correct `sha256`, or accept the new version with `gpurack lock --upgrade`.",
    ),
    "weights-damaged": _step(
        "The file is incomplete, or it has another format than weights.",
        "Fetch or copy the weights again.",
    ),
    "weights-folder-not-writable": _step(
        "root may not write to the folder of the weights, for example on NFS with `root_squash`.",
        "Export it with `no_root_squash`, or set `weights_dir` to a folder of the host.",
    ),
    "file-not-copied": _step(
        "A file of this machine did not reach the host.",
        "Correct what the message names, and run again: copies are resumed.",
    ),
    "token-unusable": _step("`hf_token` contains a control character.", "Check the source of `hf_token`."),
    "no-room": _step(
        "Weights or an image do not fit on the host's file system, with what else the run fetches there.",
        "Free some space (`gpurack prune`), or set `weights_dir`.",
    ),
}

IMAGES: Mapping[str, Code] = {
    "image-not-pulled": _step(
        "The registry refuses the image, has no such image, or is not reachable from the host.",
        "Correct `image` or `version`, set a login in `registries`, or a mirror in `mirrors`.",
    ),
    "image-not-loaded": _step("Docker cannot load the image's tar file.", "Make it again with `gpurack image-save`."),
    "image-not-built": _step(
        "The source of the image cannot be fetched, or its build fails.", "Correct `image.build`; see the last lines."
    ),
    "previous-image-missing": _step(
        "The previous container cannot be restored: the host lacks its image.",
        "Run again, which gets the image of the inventory.",
    ),
    "image-without-digest": _step(
        "No registry names a digest for the image, so the lock cannot have one.",
        "Use an image of a registry, or pin it by hand.",
    ),
    "image-cannot-use-gpus": _step(
        "A test of CUDA in the image failed: driver, device files and the image's CUDA do not fit together.",
        "Follow the message: another version of the engine or of the driver, or the toolkit.",
    ),
    "driver-too-old": _step(
        "The image needs a newer CUDA than the host's driver runs.",
        "Install a newer driver, or use an older `version`.",
    ),
    "arguments-refused": _step("The engine's program refuses its arguments.", "Correct `args`, or `version`."),
    "device-not-found": _step(
        "Docker cannot give the container its GPUs.",
        "Run `gpurack apply`; see the message for the device or the CDI spec that is missing.",
    ),
}

CONTAINERS: Mapping[str, Code] = {
    "service-rejected": _step("Compose rejects the entry's service.", "Correct `compose` of the entry."),
    "container-not-created": _step(
        "Docker or Compose did not create the container.", "Correct what the message names, and run again."
    ),
    "container-not-started": _step(
        "Docker did not start the container, say because of a port, a mount or the runtime.",
        "Correct what the message names, and run again.",
    ),
    "container-not-stopped": _step(
        "Docker did not stop the container; its processes still run.",
        "See `dmesg` for processes that hang, and reboot.",
    ),
    "container-foreign": _step(
        "A container that is not gpurack's has the entry's name or labels.",
        "Rename or remove it, or adopt it with `replaces`.",
    ),
    "container-renamed": _step(
        "The entry's container has another name or other labels than gpurack gave it.", "Rename or remove it."
    ),
    "container-vanishes": _step(
        "The container to replace was started with `--rm`, so it could not be restored.", "Stop it yourself."
    ),
    "container-removed": _step(
        "The entry has no container, because somebody removed it.", "Run again, which creates it."
    ),
    "previous-lost": _step(
        "The previous container cannot be restored after a failed change.",
        "Correct the entry, or roll back with `gpurack rollback`.",
    ),
    "port-taken": _step("Another program listens at the port.", "Stop it, or change `port`."),
    "gpu-memory-not-freed": _step(
        "The old model's memory on the GPU was not freed in time.", "See `nvidia-smi` for what still holds it."
    ),
    "no-such-user": _step("The user does not exist on the host.", "Create the user, or correct `user`."),
    "others-failed": _step(
        "Nothing is wrong with this entry: it changes together with another one, which failed.", "Fix the other one."
    ),
}

READINESS: Mapping[str, Code] = {
    "exited": _step("The container exited or restarted while it loaded.", "See the last lines of its log."),
    "not-ready": _step(
        "The model did not answer in time, or made no progress.", "See the log; set `timeout` for slow storage."
    ),
    "key-rejected": _step("The server rejects the entry's API key, or requires one.", "Set the key in `api_key` only."),
    "test-request-failed": _step(
        "The server is up, but its answer to a test request is wrong or missing.", "See the answer and the log."
    ),
    "gateway-test-failed": _step(
        "The gateway lists other models than `connects_to` selects, or does not forward a request.",
        "See the answer and the gateway's log.",
    ),
    "runs-on-cpu": _step(
        "The log says that the engine continues on the CPU.", "Use a version for this GPU and driver; see the message."
    ),
    "ollama-failed": _step(
        "ollama did not pull, list, load or remove a model.", "Correct the name in `pull`; see the log of the entry."
    ),
    "database-failed": _step(
        "The service's database could not be copied or restored, so it was not changed.",
        "See the message; the copy is kept.",
    ),
    "log-not-kept": _step("No log of this kind is kept on the host.", "See `gpurack history`."),
    "job-failed": _step("The job's command failed, or wrote no result.", "See its output; the next run repeats it."),
}

RUNS: Mapping[str, Code] = {
    "docker-command-failed": _step(
        "A command of Docker failed, or its answer is not valid.", "See the message and `journalctl -u docker`."
    ),
    "time-is-up": _step(
        "A program or a user's Docker gave no answer within its time limit.", "Find out what hangs, and run again."
    ),
    "changed-meanwhile": _step(
        "Another run, an admin or a user changed the same entries after this run was planned.", "Run again."
    ),
    "entry-held": _step("The entry is held.", "`gpurack start` ends the hold."),
    "change-not-ended": _step(
        "An earlier change was interrupted, and cannot be undone yet.", "Correct what the message names, and run again."
    ),
    "record-of-newer": _step("A newer gpurack wrote the host's record.", "Update gpurack."),
    "connection-lost": _step("The connection to the host was lost.", "Run again, which resumes."),
    "program-missing": _step("A program that is needed is not installed on the host.", "Install it."),
    "folder-not-made": _step(
        "A folder for weights or for a user's Docker could not be created.", "Follow the message, then run again."
    ),
    "docker-not-restarted": _step(
        "Docker did not restart, or containers did not start again.", "See `journalctl -u docker`, then run again."
    ),
    "daemon-json-not-applied": _step(
        "Docker rejects daemon.json, or did not come up with it; the previous file is in place again.",
        "Correct `docker.daemon`; see the message.",
    ),
    "host-file-error": _step(
        "A file of the host could not be read or written: a full disk, a missing folder, or permissions.",
        "Correct what the message names, and run again.",
    ),
    "runner-error": _step("gpurack's program on the host failed itself.", "This is a bug in gpurack; report it."),
}

STEPS: Mapping[str, Code] = {**WEIGHTS, **IMAGES, **CONTAINERS, **READINESS, **RUNS}
