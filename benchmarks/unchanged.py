"""How long a run takes where nothing has to change, beside `exec -- true` of the same folder, and beside Ansible.

It needs the testbed, and deploys inventories/demo.py there. Ansible comes from its package into .bench/, a virtual
environment of its own; benchmarks/ansible/site.yml checks the same end state.
"""

import subprocess
import sys
from functools import partial

from benchmarks.measure import BIN, CHECKOUT, Row, medians, seconds
from tests.testbed import Testbed

ANSIBLE = "ansible-core==2.19.4"
VENV = CHECKOUT / ".bench"


def rows() -> list[Row]:
    """One host and two, and Ansible on one."""
    testbed = Testbed.up(["gpu1", "cpu1"])
    pyinfra = [str(BIN / "pyinfra"), "-y"]
    demo = ["inventories/demo.py"]
    seconds([*pyinfra, *demo, "deploys/gpu_host.py"])
    found = []
    for hosts, limit in (("1 host, 2 models", ["--limit", "gpu1"]), ("2 hosts, 3 models", [])):
        run, floor = medians(
            partial(seconds, [*pyinfra, *limit, *demo, "deploys/gpu_host.py"]),
            partial(seconds, [*pyinfra, *limit, *demo, "exec", "--", "true"]),
        )
        found.append(Row(f"unchanged run, {hosts}", run, "s", 1.25, "`exec -- true`", floor))
        if limit:
            found.append(Row("the same, above `exec -- true`", 1000 * (run - floor), "ms", 130))
    playbook = ansible(str(testbed.ssh_config))
    run, other = medians(
        partial(seconds, [*pyinfra, "--limit", "gpu1", *demo, "deploys/gpu_host.py"]), partial(seconds, playbook)
    )
    return [*found, Row("unchanged run, 1 host", run, "s", 1 / 8, "Ansible, 15 tasks", other)]


def ansible(ssh_config: str) -> list[str]:
    """The command that runs the playbook on gpu1, with pipelining and one connection that is kept."""
    program = VENV / "bin" / "ansible-playbook"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(VENV / "bin" / "pip"), "install", "-q", ANSIBLE], check=True)
    options = f"-F {ssh_config} -o ControlMaster=auto -o ControlPersist=10m -o ControlPath={VENV}/%C"
    return [
        *("env", "ANSIBLE_PIPELINING=true", "ANSIBLE_HOST_KEY_CHECKING=true", f"ANSIBLE_SSH_ARGS={options}"),
        *(str(program), "-b", "-i", "gpu1,", "benchmarks/ansible/site.yml"),
    ]
