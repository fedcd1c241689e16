"""Every kind of error and warning that is found on a host: what `plan --live`, a run and `status` say.

Those that a program on the host names are in step_codes.py.

spec/error_codes.py joins them to the codes of inventories; the rules for codes are there.
"""

from collections.abc import Mapping

from gpurack.spec.code import Code, warning
from gpurack.spec.step_codes import STEPS

SIGNED_MIRROR = (
    'A mirror that signs with its own key needs that key in the inventory: mirrors: {{…: {{"url": …, "key": …}}}}.'
)
CHECK_DOCKER = "Check: systemctl status docker; journalctl -u docker -n 30."
RUN_DOCKER = "Run `gpurack apply`."
NO_DRIVER = "no NVIDIA driver (/proc/driver/nvidia) or AMD driver (/sys/class/kfd) is loaded."
INSTALL_DRIVER = "Install the driver and reboot, or set gpus: [] for the model."

INSPECTION: Mapping[str, Code] = {
    "not-inspected": Code(
        "{what}",
        "",
        "gpurack could not connect, become root, or read the host's answer; nothing was changed there.",
        "Correct what the message names, and run again.",
    ),
    "host-named-twice": Code(
        "is the same server as {other}: both have the machine-id {machine} and the address {address}.",
        "Keep one of the two names.",
        "Under two names, each would remove the models of the other.",
    ),
    "part-not-inspected": Code(
        "{part} {why}, so nothing is changed on this host.",
        "",
        "Docker or the GPUs did not answer in time, and a plan without them would be a guess.",
        "Find out what hangs: `systemctl status docker`, `nvidia-smi`, `dmesg | tail`.",
    ),
    "part-late": warning(
        "{part} {why}.",
        "",
        "One part of the snapshot did not end within its time limit; the rest was read.",
        "Find out what hangs on the host: `dmesg | tail`, `df -h`.",
    ),
    "lines-ignored": warning(
        "{what}",
        "",
        "A program on the host printed something that gpurack cannot parse. The lines have no effect.",
        "Update gpurack. If the message stays, report it with the program's version.",
    ),
    "container-not-ours": warning(
        "container {name} ({id}){whose} has gpurack's labels, but {why}; it is ignored.",
        "",
        "`docker commit` and copies keep labels. Only a container in the host's record is gpurack's.",
        "Remove the container where it is not needed.",
    ),
    "host-answer-unreadable": Code(
        "{what}",
        "",
        "The host answered, but not in a form that gpurack can read.",
        "Report it: this is a bug in gpurack.",
    ),
    "internal-error": Code(
        "internal error ({where}).",
        "This is a bug in gpurack, please report it.",
        "gpurack itself failed. Only this host is affected.",
    ),
    "another-run": warning(
        "wait for another gpurack run on this host ({who})",
        "",
        "One run at a time changes the models of a host.",
        "Wait; the run continues when the other one ends.",
    ),
    "unsupported-data": Code(
        '{word}="{value}" is not supported.',
        "Use {known}.",
        "`--data` of pyinfra takes these words only.",
    ),
    "step-killed": Code(
        "{what} was killed, or ended without a message.",
        "Run again: a run continues where the last one stopped.",
        "A user or the kernel (out of memory) killed it, or the host shut down.",
    ),
    "step-failed": Code(
        "{what}",
        "",
        "A command on the host failed; the message is its own last line.",
        "Correct what it names, and run again: a run continues where the last one stopped.",
    ),
}

DOCKER: Mapping[str, Code] = {
    "platform-unsupported": Code(
        "{system} is not supported; supported are {supported}.",
        "",
        "Packages, repositories and paths differ, and gpurack is tested on these systems only.",
        "Use one of the supported systems.",
    ),
    "no-systemd": Code(
        "the host's init is {init}; gpurack needs systemd.",
        "",
        "Docker and the models start at boot through systemd units.",
        "Use a host with systemd.",
    ),
    "docker-snap": Code(
        "Docker is installed as a snap, which keeps its files, devices and daemon.json to itself.",
        "gpurack needs Docker from packages. Save its data, run `snap remove docker`, then run again.",
        "A snap's Docker cannot see CDI specs, and has its own daemon.json.",
    ),
    "docker-without-package": Code(
        "a Docker that no package installed is on this host ({program}).",
        'Nothing was installed beside it. To keep it, set docker: {{"source": "keep"}}; else remove it and run again.',
        "A second Docker beside a static or self-built one would not be used, or would fight for its socket.",
        'Set `docker: {"source": "keep"}`, or remove that Docker.',
    ),
    "docker-masked": Code(
        "docker.service is masked, so an admin does not want Docker to start.",
        "To allow it, run `systemctl unmask docker.service`, then run again.",
        "gpurack starts no unit that an admin has masked.",
    ),
    "held-by-others": Code(
        "{names}: on hold, and not by gpurack, so the hold stays.",
        "To release it: {command}",
        "Holds that gpurack sets are noted since this version; holds of older versions count as an admin's.",
    ),
    "docker-kept-silent": Code(
        "docker.source is keep, but no Docker daemon answers.",
        "Start Docker, or set `docker.source` to docker-ce or distro.",
        "With `keep`, gpurack installs no Docker.",
    ),
    "docker-kept-without-compose": Code(
        "docker.source is keep, but Docker has no Compose v2 (`docker compose version`).",
        "Install docker-compose-plugin or docker-compose-v2.",
        "With `keep`, gpurack installs no Compose, and it runs the models through Compose.",
    ),
    "docker-missing": Code(
        "Docker is not installed.", RUN_DOCKER, "This deploy does not install Docker, or has not done it yet."
    ),
    "docker-silent": Code("Docker does not answer.", CHECK_DOCKER, "Docker is installed, but `docker info` failed."),
    "docker-late": Code("Docker {why}.", CHECK_DOCKER, "`docker info` did not end within its time limit."),
    "distribution-without-docker": Code(
        "{system} has no Docker with Compose v2 of its own.",
        'Write docker: {{"source": "docker-ce"}}.',
        "The inventory asks for the distribution's Docker, and this one has none that fits.",
    ),
    "docker-conflict": Code(
        "{name} {version} is installed and conflicts with {wanted}.",
        "{hint}",
        "Two Dockers cannot be on one host, and gpurack does not replace one unasked.",
        "Remove the other one, or set `docker.source` to it.",
    ),
    "daemon-json-unreadable": Code(
        "{file} {what}.",
        "It was not touched. Correct it, or move it away: {move}",
        "The file belongs to the admin, so gpurack does not overwrite what it cannot read. dockerd would not start.",
    ),
    "daemon-key-and-flag": Code(
        "docker.service starts dockerd with {flag}, and daemon.json would set {key} too: dockerd would not start.",
        "Remove the flag from the unit (systemctl cat docker.service) or set the key to null.",
        "dockerd refuses a setting that is both a flag and a key of daemon.json.",
    ),
    "swarm-live-restore": Code(
        "daemon.json would have live-restore, but this Docker is a node of a Swarm: dockerd would not start.",
        'Write docker: {{"daemon": {{"live-restore": null}}}} for this host, or leave the Swarm.',
        "Docker supports no live-restore on nodes of a Swarm.",
    ),
    "swarm-without-live-restore": warning(
        "this Docker is a node of a Swarm, which excludes live-restore: a restart of Docker stops the models.",
        "",
        "gpurack turns on live-restore where Docker allows it.",
        "Leave the Swarm (`docker swarm leave`) if nothing needs it.",
    ),
    "restart-stops-others": Code(
        "{why} needs a restart of Docker, which would stop containers that gpurack does not manage: {names}.",
        "{hint}",
        "gpurack stops no container of others without being asked (`docker.restart`).",
        'Stop them yourself, or write docker: {"restart": "always"}.',
    ),
    "remove-would-stop-others": Code(
        "Docker was not removed, because containers that gpurack does not manage run in it: {names}.",
        "",
        "gpurack stops no container of others.",
        "Stop or move these containers, and run again.",
    ),
}

ROOTLESS: Mapping[str, Code] = {
    "user-not-inspected": Code(
        "could not inspect the rootless Docker of {user}: {why}.",
        "Check: sudo -iu {user} docker info.",
        "The user's Docker did not answer in time. Only models of this user are affected.",
    ),
    "user-missing": Code(
        "the user {user} does not exist on the host.",
        "gpurack creates no accounts: create it ({command}, or in your directory), or remove it from docker.rootless.",
        "`docker.rootless` names accounts that exist.",
    ),
    "user-is-root": Code(
        "{user} is root.",
        "The Docker of root is the host's own: remove it from docker.rootless.",
        "A rootless Docker runs as a user who is not root.",
    ),
    "too-few-subordinate-ids": Code(
        "{user} has fewer than {ids} subordinate ids in {file}.",
        "Remove the line, and gpurack grants enough.",
        "Images have files of the users 0 to 65535, and each needs an id on the host.",
    ),
    "subordinate-ids-overlap": Code(
        "the subordinate ids of {user} in {file} overlap those of {other}, so containers of one could act as the "
        "other.",
        "Change the ids of one of them.",
        "Each user's containers need ids of their own.",
    ),
    "rootless-silent": Code(
        "the rootless Docker of {user} does not answer.",
        "Check: {check}.",
        "Its unit exists, but `docker info` failed.",
    ),
    "rootless-missing": Code(
        "{user} has no rootless Docker yet.", RUN_DOCKER, "The models' deploy installs no Docker."
    ),
    "rootless-failed": Code(
        "{what}",
        "",
        "A step of this user's rootless Docker failed. Other users and the host's own Docker are served anyway.",
        "Correct what it names, and run again.",
    ),
}

DRIVER: Mapping[str, Code] = {
    "no-driver": Code(
        f"{{wish}}{NO_DRIVER}",
        INSTALL_DRIVER,
        "gpurack installs no drivers.",
    ),
    "wsl-without-driver": Code(
        "{wish}WSL has no GPU of NVIDIA.",
        "Install NVIDIA's driver in Windows, none in WSL, and run `wsl --shutdown` there.",
        "In WSL the driver is that of Windows. A driver for Linux breaks it.",
    ),
    "jetson": Code(
        "{wish}its GPU belongs to a Jetson, which gpurack does not support.",
        "Use a host with NVIDIA's usual driver, or the CPU (`gpus: []`).",
        "A Jetson before Thor has another driver, and needs images that are made for it.",
    ),
    "gpus-not-shown": Code(
        "wants a GPU, but nvidia-smi -L shows none.{says}",
        "",
        "The driver is loaded, but lists no GPU.",
        "Check `nvidia-smi -L` and `dmesg | grep -i nvrm`; reboot if the driver was upgraded.",
    ),
    "nvidia-smi-failed": Code(
        "{said}",
        "",
        "The driver does not answer for all GPUs.",
        "Check `dmesg | grep -i xid`; a GPU that fell off the bus needs a reboot.",
    ),
    "driver-mismatch": Code(
        "the NVIDIA kernel module is {kernel}, but nvidia-smi says: {message}.",
        "Running models keep running but could not restart, so no model on a GPU was changed. Reboot the host, then "
        "run again.{also}",
        "The driver's packages were upgraded while the old kernel module was loaded.",
        "Reboot the host, then run again. A reboot also stops what gpurack does not manage; the message names it.",
    ),
    "not-started": Code(
        "not started: the NVIDIA driver and its library have different versions.",
        "",
        "With two versions of the driver, no container can get a GPU.",
        "Reboot the host, then run again.",
    ),
    "other-driver": Code(
        "the host runs the NVIDIA driver {found}, but the inventory has {wanted}.{waiting}",
        "gpurack installs no drivers: install it and reboot, or correct nvidia.driver. The models are served anyway.",
        "`nvidia.driver` says which driver the host should have.",
    ),
    "nouveau-has-gpus": warning(
        "the nouveau driver has the GPUs {places}, so NVIDIA's driver cannot use them.",
        "Write `blacklist nouveau` and `options nouveau modeset=0` to a file in /etc/modprobe.d, run "
        "`update-initramfs -u` or `dracut -f`, and reboot.",
        "A GPU has one driver, and nouveau was loaded first.",
    ),
    "gpus-without-driver": warning(
        "NVIDIA GPUs on the PCI bus with {driver}: {places}.",
        "Check `dmesg | grep NVRM`; a driver that does not support the GPU says so there.",
        "The GPUs are in the host, but NVIDIA's driver does not have them.",
    ),
    "module-refuses-gpu": warning(
        "NVIDIA's kernel module refuses a GPU: `{said}`. {cause}.",
        "Install {install} and reboot.",
        "The kernel's log says that the loaded module does not support a GPU of this host.",
    ),
    "kernel-without-module": warning(
        "the newest kernel {kernel} has no NVIDIA module: after a reboot the GPUs would be missing.",
        "Install its headers and run `{command}`, or the distribution's module for this kernel.",
        "The module is built or installed for each kernel, and was not for this one.",
    ),
    "kernel-with-other-module": warning(
        "the newest kernel {kernel} has the NVIDIA module {module}, but the libraries are {library}: after a reboot no "
        "model could start.",
        "Install the module and the libraries of one version.",
        "Kernel module and libraries of the driver must have the same version.",
    ),
    "kernel-with-wrong-module": warning(
        "the newest kernel {kernel} has an NVIDIA module that does not support a GPU: {why}. After a reboot "
        "the GPU would be missing.",
        "Install the other kind of module.",
        "NVIDIA's open and proprietary modules support different GPUs.",
    ),
    "module-not-signed": warning(
        "Secure Boot is on, but the NVIDIA module of the newest kernel {kernel} is not signed, so it would not load.",
        "Install the distribution's signed module, or sign it and enrol the key (`mokutil --import`, then confirm at "
        "the console).",
        "With Secure Boot, the kernel loads signed modules only.",
    ),
    "fabric-not-ready": Code(
        "{what}. CUDA fails with error 802 (system not yet initialized) until the NVSwitch fabric is ready.",
        "{hint}",
        "On machines with NVSwitches, no GPU computes before the fabric manager has set up the fabric.",
        "Install the fabric manager in the driver's version, and start it.",
    ),
    "cdi-specs-conflict": Code(
        "{files} name the same GPU, and Docker finds it in none of them.",
        "Keep the one that is refreshed (/var/run/cdi/nvidia.yaml), and remove the other.",
        "Within a folder, two CDI specs with a device of the same name make it unresolvable.",
        "Remove one of the files; no container that runs is affected.",
    ),
    "cdi-spec-stale": Code(
        "{file} does not fit the driver: {why}. Nothing refreshes this file.",
        "`{command}`; the toolkit refreshes /var/run/cdi/nvidia.yaml by itself.",
        "A CDI spec names device nodes and files of the driver, which a new driver or a reboot changes.",
        "Remove the file; the next run creates a spec if none is left.",
    ),
    "cdi-spec-unrefreshed": warning(
        "{file} gives the GPUs, and nothing refreshes this file when the driver changes.",
        "`{command}`; the toolkit refreshes /var/run/cdi/nvidia.yaml by itself.",
        "A CDI spec in /etc/cdi that was made by hand or by another program gets old with the next driver.",
        "Remove the file; the next run creates a spec if none is left.",
    ),
    "gpu-unhealthy": warning(
        "GPU {gpu} {what}.",
        "",
        "nvidia-smi reports it; models on the GPU are served anyway.",
        "Check `nvidia-smi -q -i GPU` and `dmesg | grep -i xid`.",
    ),
    "gpu-compute-mode": warning(
        "GPU {gpu} is in compute mode {mode}, so {effect}.",
        "Run `nvidia-smi -i {gpu} -c DEFAULT`.",
        "In mode Prohibited no program can use a GPU, in mode Exclusive_Process only one process. What runs continues.",
        "Run the command. If the mode is back after a reboot, a unit or script of the host sets it.",
    ),
    "access-unavailable": Code(
        "nvidia.access is cdi, but {why}.",
        'Write "auto", or a newer version.',
        "CDI needs Docker 25 and a toolkit that writes specs.",
    ),
    "amd-gpu-of-user": Code(
        "AMD's GPUs open to groups of the host (/dev/kfd, /dev/dri), which are other ones in the rootless Docker of "
        "{user}, so that the model could not use its GPU.",
        'Write "user": null for it: it then runs in the host\'s own Docker.',
        "A rootless Docker has no groups of the host.",
    ),
}

GPUS: Mapping[str, Code] = {
    "all-gpus-reserved": Code(
        "wants all GPUs, but all are reserved (reserved_gpus).",
        "",
        "`reserved_gpus` keeps GPUs free of models.",
        "Take a GPU out of `reserved_gpus`, or set gpus: [].",
    ),
    "gpu-reserved": Code(
        "GPU {gpu} is reserved (reserved_gpus).",
        "Choose another GPU, or remove this one from `reserved_gpus`.",
        "`reserved_gpus` keeps GPUs free of models.",
    ),
    "gpu-broken": Code(
        "GPU {gpu} ({uuid}) {fault}, so no model can start on it.",
        "{hint}",
        "The driver lists the GPU, but says itself that nothing can compute on it.",
        "Reset the GPU (`nvidia-smi -r -i GPU`, while nothing uses it) or reboot the host, or choose another GPU.",
    ),
    "gpu-in-mig-mode": Code(
        "GPU {gpu} is in MIG mode and cannot be used as a whole.{has}",
        "{hint}",
        "In MIG mode only the instances of a GPU compute.",
        "Name an instance by its UUID, or end MIG mode: `nvidia-smi -i GPU -mig 0`.",
    ),
    "mig-shared": Code(
        "MIG instance {gpu} is used by {names}.",
        "Give each its own instance; `nvidia-smi -L` lists them.",
        "An instance is made for one process. gpurack never puts two models on one.",
    ),
    "gpu-unexpected": Code(
        "GPU {gpu} is an {name}, but `hardware` has an {expected} there.",
        "Correct `hardware`, or choose another GPU.",
        "The host has another GPU in this place than the inventory was planned for.",
    ),
    "gpu-ambiguous": Code(
        "{gpu} matches {count} GPUs.", "Write more of the UUID.", "The beginning of a UUID has to name one GPU."
    ),
    "gpu-named-twice": Code(
        "{gpus} names one GPU twice.", "", "An index, a UUID and a PCI address can name the same GPU.", "Remove one."
    ),
    "vram-needs-percentage": Code(
        "{gpu} does not report its memory, so `vram` has to be a percentage.",
        "Write a percentage, for example {example}.",
        "Where GPU and CPU share memory, nvidia-smi reports no size.",
    ),
    "gpu-in-use": Code(
        "GPU {gpu} is in use by {who}, which gpurack does not manage. This model was not changed.",
        "Wait for it to end, stop it, or choose another GPU{others}.",
        "A process outside gpurack holds memory that the model needs.",
    ),
    "gpu-lost": Code(
        "its GPU {gpus} no longer answers.{reason}",
        "Reboot the host. If the GPU stays missing, choose another one{others}.",
        "The container has a GPU that the driver no longer lists, often after an Xid error.",
    ),
    "gpu-fell-off": Code(
        "GPU {gpu} {what}",
        "{also}",
        "The kernel lists the GPU, but the driver does not reach it.",
        "Reboot the host: only that restores a GPU that fell off the bus.",
    ),
    "gpus-missing": Code(
        "{missing} of the {expected} GPUs in `hardware` are missing.",
        "",
        "The host shows fewer GPUs than the inventory's `hardware`.",
        "Check `lspci` and `nvidia-smi -L`, or correct `hardware`.",
    ),
    "no-image-for-hardware": Code(
        "{what}",
        "",
        "The engine has no image for what this entry computes on.",
        "Choose another GPU, version or engine, or set `image`.",
    ),
}

OWNERS: Mapping[str, Code] = {
    "model-of-other-lab": Code(
        "`{name}` belongs to {owner}.",
        "Rename the entry, or take the model over: --take-over (pyinfra: --data take_over=yes).",
        "The host's record says that another inventory started this container. Only its lab changes or removes it.",
    ),
    "held-by-other-lab": Code(
        "needs {what}, which `{holder}` of {owner} has.",
        "Choose another, or ask that lab.",
        "GPUs and ports of another lab's models are taken, whether the models run now or not.",
    ),
    "removal-needs-number": Code(
        "this run would remove {count} of {total} models: {names}. No model was changed.",
        "If that is right, {how}.",
        "Removing the last models of a host, or more than half of five or more, needs the exact number. "
        "A wrong inventory, branch or indentation looks the same.",
    ),
    "removal-from-old-clone": Code(
        "would remove {names}, applied from {commit} ({who}). That commit is not in {where}.",
        "{way}{also}",
        "The entry may have been added after this clone was last updated.",
        "Update the clone of the inventory, or run without `-y` at a terminal and confirm.",
    ),
    "old-clone": warning(
        "{names}: applied from {commit} ({who}). That commit is not in {where}, so `-y` refuses the removal.",
        "{way}",
        "The entry may have been added after this clone was last updated.",
        "Update the clone of the inventory, or run without `-y` at a terminal and confirm.",
    ),
    "not-in-inventory": warning(
        "also runs: {names} (not in the inventory; the next apply removes {them})",
        "",
        "This inventory's lab started them, and the inventory does not have them any more.",
        "Apply the inventory to remove them, or write their entries again to keep them.",
    ),
    "others-on-host": Code(
        "models of another lab run here: {names}. Nothing was removed.",
        "Set `enabled: false` for your own and run deploys/models.py.",
        "deploys/remove.py removes what all models of the host need.",
    ),
}

MODELS: Mapping[str, Code] = {
    "container-name-taken": Code(
        "a container named `{name}` already exists and is not managed by gpurack{which}.",
        "{hint}",
        "gpurack replaces no container that it did not create.",
        "Adopt it with `replaces`, remove it, or rename the entry.",
    ),
    "port-in-use": Code(
        "port {port} is already in use by {holder}. This model was not changed.",
        "{hint}",
        "Two programs cannot listen at the same address and port.",
        "Stop the other program, or use another port.",
    ),
    "blocked-by-other": Code(
        "{things} is still in use by {other}, which could not be changed. This model was not changed either.",
        "",
        "A swap of two models happens as a whole or not at all.",
        "Fix the error of the other model first.",
    ),
    "weights-not-readable": Code(
        "weights {file} are not readable by {user}, who runs this model.",
        "Check: ls -l {file}",
        "In a rootless Docker, the container reads files with that user's rights.",
    ),
    "weights-not-on-host": Code(
        "weights {file} do not exist on the host.",
        'Copy them there, or set {{"url": …, "sha256": …}}.',
        "`weights` is a path on the host, and nothing is there.",
    ),
    "weights-hidden": Code(
        "{file} cannot be inspected: gpurack inspects it as {who}, who has no access.",
        "Check: namei -l {file}.",
        "What a user can change is read with that user's rights only.",
    ),
    "weights-irregular": Code(
        "{file} is not a regular file or a folder ({kind}).",
        "Replace it, or correct the path.",
        "Devices, pipes and sockets cannot be weights.",
    ),
    "weights-late": Code(
        "could not inspect its weights{where}: {why}. It was not changed.",
        "Check: df -h; dmesg | tail.",
        "The file system did not answer in time, often a network file system.",
    ),
    "weights-label": Code(
        "SELinux does not allow containers to read the weights {file} (label {label}).",
        "Relabel them: semanage fcontext -a -t container_ro_file_t '{file}(/.*)?' && restorecon -R {file}; or set "
        'compose: {{"security_opt": ["label=disable"]}} for this model.',
        "Docker confines containers by SELinux on this host. gpurack does not relabel the admin's files.",
    ),
    "weights-differ-from-lock": Code(
        "{file} does not match the lock: its sha256 is {found}, not {wanted}.",
        "To restore the old one, {again}; to accept the new one, gpurack lock INVENTORY {name} --upgrade.",
        "The lock pins the content of weights, and the file has another.",
    ),
    "pull-differs-from-lock": Code(
        "{pulled} does not match the lock: its digest is {found}, not {wanted}.",
        "Pull the old one from a source that still has it, or accept the new one: gpurack lock INVENTORY {name} "
        "--upgrade.",
        "The lock pins what an ollama pulls, and its library has only the newest.",
    ),
    "no-default-route": Code(
        "`bind: lan` needs a default route, and the host has none.",
        "Set `bind` to one of its addresses: {addresses}.",
        "`lan` is the address of the default route.",
    ),
    "compose-key-refused": Code(
        "`{key}` has no meaning in the compose file that gpurack writes.",
        "{hint}",
        "Compose knows the key. A container that serves with it stays; a new one is not created.",
        "Use what the hint names.",
    ),
    "no-first-account": Code(
        "its database has no account yet, and {what}",
        "",
        "The first visitor becomes the administrator.",
        "Give the first account in `keys`, or bind it to loopback until the account exists.",
    ),
    "wrong-model-answers": Code(
        'something else answers there, not "{name}": {body}.',
        "Fix: {command}, then run again.",
        "The port answers, but by another name than the entry's.",
    ),
    "model-silent": Code(
        "it runs but does not answer (GET {url}: no response in 5 s).",
        "Check: {logs}. Fix: {command}, then run again.",
        "The container runs, and its server accepts no request.",
    ),
    "port-not-published": Code(
        "it runs but Docker no longer publishes its port {port}.",
        "The next run restarts it. By hand: {command}.",
        "Docker lists the port, and nothing listens at it: seen after Docker was restarted on a full disk.",
    ),
    "model-failing": Code(
        "it answers HTTP {status}: {body}.", "Check: {logs}.", "The server runs and reports an error of its own."
    ),
    "computes-on-cpu": warning(
        "it answers, but computes on the CPU: {why}.",
        "Look for an error of CUDA: {logs}. Then restart it: {command}.",
        "Its log has an error of CUDA or says that it found no GPU, or nvidia-smi lists no process of it and other "
        "containers explain all memory in use on its GPUs. llama.cpp and others continue on the CPU if CUDA does "
        "not start, about fifty times slower.",
        "Search for `failed to initialize CUDA` in its log, fix what [troubleshooting.md](troubleshooting.md) says, "
        "and restart the model. `gpurack verify` tests CUDA in its container.",
    ),
    "test-failing": Code(
        "failing since {since}: {why}.",
        "",
        "It says that it is ready, and the last test request to it failed.",
        "Read its log (`docker logs NAME`). Each run asks it again.",
    ),
    "failed-before": Code(
        "{what} was tried at {at}, and failed: {why}. {now}",
        "Its log: gpurack logs {place} --failed. It is tried again when its entry, image, weights or driver change, or "
        "with --retry {place} (pyinfra: --data retry={place}).",
        "What failed once is not tried again by itself, so that nightly runs stop no model that serves.",
    ),
    "unknown-retry": Code(
        "cannot try `{value}` again: {why}.",
        "Write {example}, or HOST/all.",
        "The host or the entry is not in the inventory.",
        "Write HOST/MODEL or HOST/all, with the names of the inventory.",
    ),
    "no-rollback": Code(
        "{what}.",
        "`gpurack rollback INVENTORY HOST/MODEL --list` lists what can be brought back.",
        "The host's record has the last three definitions with which each model was ready.",
    ),
    "change-interrupted": warning(
        "the interrupted change of {names} is finished or undone by the next run",
        "",
        "A run was killed, or the host lost power, while it replaced these models.",
        "Run the inventory again.",
    ),
    "container-missing": Code(
        "no container", "", "The entry has no container on its host.", "Run the inventory again."
    ),
    "container-stopped": Code(
        "{state}", "", "The container exists and does not run.", "Read its log (`docker logs NAME`), then run again."
    ),
    "model-held": warning(
        "held since {since}: {why}{by}.",
        "",
        "`gpurack stop --hold` stopped it. Runs and boots leave it stopped, and its GPUs stay reserved for it.",
        "`gpurack start INVENTORY HOST/MODEL` starts it again.",
    ),
    "model-stopped": warning(
        "stopped since {since}, until the next run{by}.",
        "",
        "`gpurack stop` stopped it.",
        "`gpurack start INVENTORY HOST/MODEL`, or the next run, starts it again.",
    ),
    "nothing-to-stop": Code(
        "not stopped: it has no container on this host that this inventory's lab owns.",
        "",
        "Only a container that the host's record names for this entry is stopped.",
        "See `gpurack diff`: it may be new, or belong to another lab.",
    ),
    "restart-changes": Code(
        "not restarted: a run would {change}.",
        "Apply the inventory.",
        "The entry differs from its container, so the same container must not simply start again.",
    ),
    "container-restarts": Code(
        "restarts again and again", "", "The container ends soon after each start.", "Read its log: `docker logs NAME`."
    ),
    "readiness-not-checked": Code(
        "readiness check did not run", "", "The host has no curl, or the check was cut off.", "Run the inventory again."
    ),
    "host-unreachable": Code(
        "host unreachable", "", "Nothing is known of the entry.", "Fix the error of the host first."
    ),
}

JOBS: Mapping[str, Code] = {
    "job-waits-for-gpu": Code(
        "{what} No model is stopped for a job.",
        "",
        "Models hold the GPUs that the job needs.",
        "Give the job another GPU, or disable a model until the job is done.",
    ),
    "job-path-missing": Code(
        "{what} {file} does not exist on the host.",
        "Create it, or correct the path.",
        "A job reads its weights and writes into its folder; gpurack creates neither.",
    ),
    "job-result-served": Code(
        "{model} serves its result {result}, which would change while it is served.",
        "Use another name for `result` and for the model's weights.",
        "A model must not lose its weights while it runs.",
    ),
}

PACKAGES: Mapping[str, Code] = {
    "repository-not-signed": Code(
        "repository {repository} is not signed with its key{key}.",
        SIGNED_MIRROR,
        "The package manager refuses a repository whose signature does not match.",
    ),
    "package-not-signed": Code(
        "{package} is not signed with the key of its repository.",
        SIGNED_MIRROR,
        "The package manager refuses a package whose signature does not match.",
    ),
    "repository-unreachable": Code(
        "repository {repository} cannot be read{why}.",
        "{hint}",
        "The host cannot reach the repository, or the repository does not exist.",
        "Check the host's network and proxy, or set a mirror.",
    ),
    "package-not-found": Code(
        "{package} is in none of the host's repositories ({command}).",
        "",
        "No repository of the host has this package or version.",
        "Correct the version, or the mirror.",
    ),
    "version-not-found": Code(
        "{package} {version} is in no repository.",
        "Available: {versions}.",
        "The repositories have other versions of the package.",
        "Write one of the available versions.",
    ),
    "version-not-carried": Code(
        "{system} has no {package} {version}.",
        'Set `docker.version` to what it has: {versions}. For other versions, set docker: {{"source": "docker-ce"}}.',
        "A distribution usually carries one version of its Docker.",
    ),
    "dependency-not-found": Code(
        "{package} needs {what}, which none of the host's repositories has.",
        "",
        "A package depends on one that is not available.",
        "Enable the repository that has it.",
    ),
    "package-hidden": Code(
        "{package} exists, but an exclude, a module or a versionlock set outside gpurack hides it (excludepkgs in "
        "/etc/dnf/dnf.conf and .repo files; {program} versionlock list).",
        "",
        "The host's own settings hide the package.",
        "Remove the exclude, module or versionlock.",
    ),
    "toolkit-versions-conflict": Code(
        "two repositories have different versions of the NVIDIA Container Toolkit, which conflict: {which}.",
        'Write nvidia: {{"toolkit": …}} with one of them, or keep it out of the other: {how}',
        "The toolkit's four packages must have one version.",
    ),
    "packages-conflict": Code(
        "the packages conflict with what is installed: {what}.",
        "",
        "The package manager found no set of versions that fit together.",
        "Remove or upgrade the package that it names.",
    ),
    "package-file-conflict": Code(
        "{package} conflicts: it also contains {file}.",
        "If nothing else needs it, remove it ({command}), and run again.",
        "Two packages cannot own one file.",
    ),
    "rpm-database-broken": Code(
        "rpm's database on the host cannot be read.",
        "Check: rpm --verifydb. Fix: rpm --rebuilddb.",
        "An interrupted installation or a full disk damaged it.",
    ),
    "no-disk-space": Code(
        "the host has no disk space for the packages: {what}.",
        "",
        "The package manager stopped before it installed anything.",
        "Free space on the file system that it names.",
    ),
}

WARNINGS: Mapping[str, Code] = {
    "reachable-from-internet": warning(
        "reachable from the internet: {names}.",
        '`bind: lan` is the public address {address} here; write bind: "{address}" where that is meant, or "loopback".',
        "The host's default route has a public address.",
    ),
    "weights-changeable": warning(
        "weights of {names} are in folders that {who} can write to, and so change what is served.",
        "Make root the owner (chown root:, chmod go-w), or let gpurack fetch the weights.",
        "The container reads what other users may replace.",
    ),
    "removal-waits": warning(
        "{name} is not in the inventory, and stays: `{successor}` takes its {things}, and has an error.",
        "It is removed with the change to `{successor}`. To remove it now, set `enabled: false` for `{successor}`.",
        "A model that another one replaces serves until that one is created.",
        "Fix the error of the new entry, or disable the entry.",
    ),
    "older-settings": warning(
        "{models} with settings of an older gpurack.",
        "`gpurack apply --renew` recreates {them}.",
        "An upgrade of gpurack recreates no container.",
        "Run `gpurack apply --renew`, or pyinfra with `--data renew=yes`.",
    ),
    "upstream-not-reached": warning(
        "{service} cannot reach {model}.",
        "It connects as soon as the model answers.",
        "A model on another host does not answer yet, or a firewall is between.",
    ),
}

LIVE: Mapping[str, Code] = {
    **INSPECTION,
    **DOCKER,
    **ROOTLESS,
    **DRIVER,
    **GPUS,
    **OWNERS,
    **MODELS,
    **JOBS,
    **PACKAGES,
    **WARNINGS,
    **STEPS,
}
