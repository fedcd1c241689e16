"""A new user's mistakes: what is typed or written, as a change of one small project. The screens: screens.txt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LAB = """\
all:
  docker: {source: docker-ce, version: 28.5.2}
  nvidia: {toolkit: 1.20.1}
  defaults: {engine: llama.cpp, bind: lan, api_key: null}
  engines: {llama.cpp: {version: b7000}, vllm: {version: 0.33.0}}
hosts:
  gpu1.lab:
    hardware: {A30: 2}
    models:
      qwen: {weights: /w/qwen.gguf, gpus: [0], port: 8000}
      bge-m3: {engine: vllm, weights: /w/bge-m3, gpus: [1], vram: 6GiB, port: 8001}
"""
IN_PYTHON = """\
lab = ([
    ("gpu1.lab", {"models": {"qwen": {"weights": "/w/qwen.gguf", "gpus": [], "port": 8000}}}),
], {"defaults": {"engine": "llama.cpp", "version": "b7000", "api_key": None, "bind": "lan"}})
"""


WITH_A_VARIABLE = "import os\n\nKEY = os.environ['LAB_KEY']\n"


@dataclass(frozen=True)
class Mistake:
    """One mistake in a project with config.py, deploys/gpu_host.py and inventories/lab.yaml.

    name: what is wrong. command: what is typed. lab: (what is written, what should be) in lab.yaml. python: the text
    of inventories/lab.py, which then replaces lab.yaml. files: more files; None removes one. ssh: what ssh says.
    snapshot: what its inspection finds, one of replay.SNAPSHOTS.
    """

    name: str
    command: str = "gpurack apply -y"
    lab: tuple[str, str] = ("", "")
    python: str = ""
    files: Mapping[str, str | None] = field(default_factory=dict)
    ssh: str = ""
    snapshot: str = ""


PLAN = "gpurack plan"
DIFF = "gpurack diff"
LISTS = "fresh, with package lists"
DOCKER = "{source: docker-ce, version: 28.5.2}"
MODELS = "    models:\n" + LAB.partition("    models:\n")[2]
BARE = 'lab = [("gpu1.lab", {"docker": {"version": "28.5.2"}})]\n'
SERVICE = "    services: {gateway: {engine: litellm, version: 1.109.1, port: 4000, connects_to: [gateway]}}\n"
QWEN = "weights: /w/qwen.gguf, gpus: [0], port: 8000"

MISTAKES = (
    # --- the command
    Mistake("host in place of the inventory", "gpurack apply gpu1.lab"),
    Mistake("unknown host in place of the inventory", "gpurack apply gpu7.lab"),
    Mistake("unknown host, inventory in the folder", "gpurack endpoints gpu7.lab", files={
        "inventories/lab.yaml": None, "lab.yaml": LAB}),
    Mistake("logs of nothing, inventory in the folder", "gpurack logs", files={
        "inventories/lab.yaml": None, "lab.yaml": LAB}),
    Mistake("misspelt inventory", "gpurack apply inventories/lba.yaml"),
    Mistake("deploy in place of the inventory", "gpurack apply deploys/gpu_host.py"),
    Mistake("deploy before the inventory", "gpurack apply deploys/gpu_host.py inventories/lab.yaml"),
    Mistake("deploy after the inventory", "gpurack apply inventories/lab.yaml deploys/gpu_host.py"),
    Mistake("folder in place of the inventory", "gpurack apply inventories"),
    Mistake("folder without an inventory", "gpurack apply", files={"inventories/lab.yaml": None}),
    Mistake("folder with two inventories", "gpurack apply", files={"inventories/old.yaml": LAB}),
    Mistake("verb of another tool", "gpurack deploy inventories/lab.yaml"),
    Mistake("misspelt verb", "gpurack stauts"),
    Mistake("misspelt option", "gpurack apply --limt gpu1.lab"),
    Mistake("limit that matches nothing", "gpurack apply -y --limit gpu2.lab"),
    Mistake("no terminal and no -y", "gpurack apply"),
    Mistake("pyinfra with swapped arguments", "pyinfra deploys/gpu_host.py inventories/lab.py", python=IN_PYTHON),
    Mistake("pyinfra with a host in place of the inventory", "pyinfra gpu1.lab deploys/gpu_host.py -y"),
    Mistake("pyinfra with a short host name", "pyinfra gpu1 deploys/gpu_host.py -y"),
    Mistake("pyinfra with YAML", "pyinfra inventories/lab.yaml deploys/gpu_host.py"),
    Mistake("pyinfra of another environment", "pyinfra-elsewhere inventories/lab.py deploys/gpu_host.py"),
    # --- the other verbs
    Mistake("help as a verb", "gpurack help"),
    Mistake("word of another tool, with a file", "gpurack ps inventories/lab.yaml"),
    Mistake("option before the verb", "gpurack --limit gpu1.lab apply"),
    Mistake("option without its value", "gpurack apply --limit"),
    Mistake("option that takes a number", "gpurack apply --allow-remove all"),
    Mistake("confirmation of a verb that changes nothing", "gpurack diff -y"),
    Mistake("two inventories", "gpurack plan inventories/lab.yaml inventories/old.yaml"),
    Mistake("host after the inventory", "gpurack apply inventories/lab.yaml gpu1.lab"),
    Mistake("word of Docker", "gpurack pull"),
    Mistake("image save without a file", "gpurack image save gpu1.lab qwen"),
    Mistake("two formats", "gpurack plan --compose gpu1.lab --live"),
    Mistake("logs of nothing", "gpurack logs"),
    Mistake("logs of a model without its host", "gpurack logs qwen"),
    Mistake("logs of a host", "gpurack logs gpu1.lab"),
    Mistake("logs of host and model, apart", "gpurack logs gpu1.lab qwen"),
    Mistake("logs of a misspelt model", "gpurack logs gpu1.lab/qwne"),
    Mistake("stop on an unknown host", "gpurack stop gpu7.lab/qwen"),
    Mistake("retry without the host", "gpurack apply -y --retry qwen"),
    Mistake("lock of a misspelt part", "gpurack lock dokcer --upgrade"),
    Mistake("lock of one model, without --upgrade", "gpurack lock qwen"),
    Mistake("manifest of no host", "gpurack manifest"),
    Mistake("completion of no shell", "gpurack completion"),
    Mistake("import of a file that is missing", "gpurack import start.sh"),
    Mistake("import of a folder", "gpurack import inventories"),
    Mistake("import of an inventory", "gpurack import inventories/lab.yaml"),
    Mistake("rollback of a host", "gpurack rollback gpu1.lab"),
    Mistake("init without a terminal", "gpurack init my-lab"),
    Mistake("init of a host without a terminal", "gpurack init my-lab --host gpu1"),
    Mistake("init with a port", "gpurack init my-lab --lab nlp --host gpu1.lab:2222"),
    Mistake("init in a project", "gpurack init --lab nlp", files={"lab.yaml": LAB}),
    Mistake("one more host in a project", "gpurack init --host gpu2.lab", files={"lab.yaml": LAB}, ssh="refused"),
    Mistake("endpoints of models on loopback", "gpurack endpoints", lab=("bind: lan, ", "")),
    Mistake("init that adopts nothing", "gpurack init my-lab --lab nlp --adopt qwen-old"),
    # --- ssh and sudo
    Mistake("wrong ssh user", lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_user: ics\n    ssh_port: 2222\n"), ssh="auth"),
    Mistake("no key on the host", ssh="auth"),
    Mistake("unknown host name", ssh="unknown"),
    Mistake("ssh closed", ssh="refused"),
    Mistake("host down", ssh="timeout"),
    Mistake("host key changed", ssh="key"),
    Mistake("host key changed, on another port", lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_port: 2222\n"), ssh="key"),
    Mistake("pyinfra, host away", "pyinfra inventories/lab.py deploys/gpu_host.py", python=IN_PYTHON, ssh="auth"),
    Mistake("user in the name of a host", PLAN, lab=("gpu1.lab:\n", "root@gpu1.lab:\n")),
    Mistake("port in the name of a host", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:2222:\n")),
    Mistake("address with a scheme", PLAN, lab=("gpu1.lab:\n", "https://gpu1.lab/:\n")),
    Mistake("ssh_port as text", PLAN, lab=("gpu1.lab:\n", 'gpu1.lab:\n    ssh_port: "ssh"\n')),
    Mistake("ssh_port in quotes", DIFF, lab=("gpu1.lab:\n", 'gpu1.lab:\n    ssh_port: "22"\n')),
    Mistake("empty ssh_user", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_user:\n")),
    Mistake("ssh_port that does not exist", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_port: 99999\n")),
    Mistake("number as password of sudo", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    _sudo_password: 5\n")),
    Mistake("_sudo as text", PLAN, lab=("gpu1.lab:\n", 'gpu1.lab:\n    _sudo: "yes"\n')),
    Mistake("unknown check of host keys", PLAN, lab=(
        "gpu1.lab:\n", "gpu1.lab:\n    ssh_strict_host_key_checking: foo\n")),
    Mistake("no sudo", snapshot="NEEDS_ROOT"),
    Mistake("sudo with a password", snapshot="NEEDS_PASSWORD"),
    # --- what the host has
    Mistake("version of Docker that its repository lacks", DIFF, lab=("28.5.2", "28.5.9"), snapshot=LISTS),
    Mistake("version that the distribution lacks", DIFF, lab=("docker-ce", "distro"), snapshot=LISTS),
    Mistake("other version than that of docker.io", DIFF, lab=("source: docker-ce, ", ""), snapshot="docker.io"),
    Mistake("docker-ce beside docker.io", DIFF, snapshot="docker.io"),
    Mistake("docker.io without Compose v2", DIFF, lab=(DOCKER, "{}"), snapshot="docker.io of Debian 12"),
    Mistake("Docker as a snap", DIFF, snapshot="snap"),
    Mistake("a lost GPU", "gpurack status", snapshot="lost GPU"),
    Mistake("no driver", "gpurack status", snapshot="no driver"),
    Mistake("models that nobody applied", "gpurack status", snapshot=LISTS),
    # --- YAML and Python
    Mistake("tab in YAML", PLAN, lab=("    hardware", "\thardware")),
    Mistake("line indented too deep", PLAN, lab=("    models:\n", "      models:\n")),
    Mistake("tab in an entry", PLAN, lab=("      qwen", "\tqwen")),
    Mistake("line between two levels", PLAN, lab=("      bge", "     bge")),
    Mistake("brace not closed", PLAN, lab=("port: 8000}", "port: 8000")),
    Mistake("name without a colon", PLAN, lab=("    models:\n", "    models\n")),
    Mistake("key without a space", PLAN, lab=("port: 8000", "port:8000")),
    Mistake("key given twice", PLAN, lab=("port: 8000}", "port: 8000, port: 8001}")),
    Mistake("hosts as a list", PLAN, lab=("  gpu1.lab:\n    hardware", "  - name: gpu1.lab\n    hardware")),
    Mistake("models as a list", PLAN, lab=(MODELS, f"    models: [{{name: qwen, {QWEN}}}]\n")),
    Mistake("all as a list", PLAN, lab=(LAB.partition("hosts:")[0], "all: [docker]\n")),
    Mistake("docker as text", PLAN, lab=("{source: docker-ce, version: 28.5.2}", "docker-ce")),
    Mistake("defaults as a list", PLAN, lab=("{engine: llama.cpp, bind: lan, api_key: null}", "[llama.cpp]")),
    Mistake("model as text", PLAN, lab=(f"{{{QWEN}}}", "/w/qwen.gguf")),
    Mistake("models without a value", PLAN, lab=(MODELS, "    models:\n")),
    Mistake("inventory without models", PLAN, lab=("    models:\n", "    modles:\n")),
    Mistake("no models at all", PLAN, python=BARE),
    *(Mistake(f"no models at all, {verb}", f"gpurack {verb}{' -y' if verb == 'apply' else ''}", python=BARE)
      for verb in ("apply", "status", "endpoints", "lock", "verify")),
    Mistake("Python with a bracket missing", PLAN, python=IN_PYTHON.replace("}}})", "}}}")),
    Mistake("dict at the top of a Python inventory", PLAN, python=IN_PYTHON + 'docker = {"version": "28.5.2"}\n'),
    Mistake("environment variable of a Python inventory", PLAN, python=f"{WITH_A_VARIABLE}{IN_PYTHON}"),
    Mistake("empty inventory", PLAN, files={"inventories/lab.yaml": ""}),
    Mistake("misspelt hosts", PLAN, lab=("hosts:", "host:")),
    Mistake("two documents", PLAN, files={"inventories/lab.yaml": f"{LAB}---\n{LAB}"}),
    Mistake("inventory that is not UTF-8", PLAN, files={"inventories/lab.yaml": f"# Schl\udcfcssel\n{LAB}"}),
    Mistake("inventory of an editor that writes UTF-16", PLAN, files={"inventories/lab.yaml": "\udcff\udcfeh\0"}),
    Mistake("misspelt field after a byte order mark and CRLF", PLAN, files={
        "inventories/lab.yaml": "\ufeff" + LAB.replace("bge-m3, gpus", "bge-m3, gups").replace("\n", "\r\n")}),
    Mistake("YAML with another ending", "gpurack plan lab.txt", files={"lab.txt": LAB}),
    Mistake("folder with a space", "gpurack plan 'my lab'", files={"my lab/lab.yaml": LAB}),
    # --- fields
    Mistake("misspelt field of ssh", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_usr: root\n    sudo: true\n")),
    Mistake("fields of Ansible", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    ansible_user: root\n")),
    Mistake("misspelt defaults", PLAN, lab=("defaults:", "defualts:")),
    Mistake("misspelt engines", PLAN, lab=("engines:", "engnies:")),
    Mistake("misspelt field", PLAN, lab=("weights: /w/qwen", "wieghts: /w/qwen")),
    Mistake("misspelt values in defaults", PLAN, lab=("llama.cpp, bind: lan", "llamacpp, bind: lna")),
    Mistake("misspelt engine", PLAN, lab=("engine: llama.cpp", "engine: llamacpp")),
    Mistake("version with v", PLAN, lab=("vllm: {version: 0.33.0}", 'vllm: {version: "v0.10.0"}')),
    Mistake("docker version with v", PLAN, lab=("version: 28.5.2", 'version: "v28.5.2"')),
    Mistake("unquoted version 0.10", PLAN, lab=("vllm: {version: 0.33.0}", "vllm: {version: 0.10}")),
    Mistake("unquoted version 28", PLAN, lab=("version: 28.5.2", "version: 28")),
    Mistake("unquoted toolkit version", PLAN, lab=("toolkit: 1.20.1", "toolkit: 1.20")),
    Mistake("port as text", PLAN, lab=("port: 8000", 'port: "8000"')),
    Mistake("port of Compose", PLAN, lab=("port: 8000", 'port: "8000:8000"')),
    Mistake("port used twice", PLAN, lab=("port: 8001", "port: 8000")),
    Mistake("bare number of GPUs", PLAN, lab=("gpus: [0]", "gpus: 1")),
    Mistake("GPU that the host lacks", PLAN, lab=("gpus: [0]", "gpus: [2]")),
    Mistake("two models on one GPU", PLAN, lab=("gpus: [1]", "gpus: [0]")),
    Mistake("vram without a unit", PLAN, lab=("vram: 6GiB", "vram: 6")),
    Mistake("vram in GB", PLAN, lab=("vram: 6GiB", "vram: 6GB")),
    Mistake("key in the inventory", PLAN, lab=("api_key: null", "api_key: sk-live-1234")),
    Mistake("password of ssh in the inventory", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_password: hush\n")),
    Mistake("port of ssh", PLAN, lab=("port: 8000", "port: 22")),
    Mistake("misspelt log driver", PLAN, lab=(DOCKER, "{daemon: {log-driver: jsonfile}}")),
    Mistake("key of daemon.json with an underscore", PLAN, lab=(DOCKER, "{daemon: {log_driver: local}}")),
    Mistake("misspelt log driver of a model", PLAN, lab=(
        "port: 8000", "port: 8000, compose: {logging: {driver: jurnald}}")),
    Mistake("key from a variable that is not set", PLAN, lab=("api_key: null", "api_key: {env: FIRST_DAY_KEY}")),
    Mistake("weights by name", PLAN, lab=("weights: /w/qwen.gguf", "weights: Qwen/Qwen2.5-7B-Instruct-GGUF")),
    Mistake("home of the admin in weights", PLAN, lab=("weights: /w/qwen.gguf", "weights: ~/qwen.gguf")),
    Mistake("flag with dashes", PLAN, lab=("port: 8000", 'port: 8000, args: {"--threads": 8}')),
    Mistake("args as a list", PLAN, lab=("port: 8000", 'port: 8000, args: ["--threads", "8"]')),
    Mistake("bind to a host name", PLAN, lab=("bind: lan", "bind: localhost")),
    Mistake("no port", PLAN, lab=(", port: 8000", "")),
    Mistake("context with a unit", PLAN, lab=("port: 8000", "port: 8000, context: 32k")),
    Mistake("true and false as text", PLAN, lab=("port: 8000", 'port: 8000, enabled: "no"')),
    Mistake("env as in Compose", PLAN, lab=("port: 8000", "port: 8000, env: [HF_HUB_OFFLINE=1]")),
    Mistake("env with a number", PLAN, lab=("port: 8000", "port: 8000, env: {HF_HUB_OFFLINE: 1}")),
    Mistake("env with a truth value", PLAN, lab=("port: 8000", "port: 8000, env: {DEBUG: true}")),
    Mistake("key of Compose in an entry", PLAN, lab=("port: 8000", "port: 8000, volumes: [/data:/data]")),
    Mistake("environment of Compose", PLAN, lab=("port: 8000", "port: 8000, environment: {A: b}")),
    Mistake("flag of vLLM in an entry", PLAN, lab=("port: 8001", "port: 8001, tensor_parallel_size: 2")),
    Mistake("model in place of weights", PLAN, lab=("weights: /w/qwen.gguf", "model: /w/qwen.gguf")),
    Mistake("address of the Hub as weights", PLAN, lab=(
        "/w/qwen.gguf", "https://huggingface.co/Qwen/Qwen2.5-7B-Instruct-GGUF/resolve/main/q8.gguf")),
    Mistake("address of the Hub as repository", PLAN, lab=(
        "weights: /w/bge-m3", "weights: {hf: https://huggingface.co/BAAI/bge-m3}")),
    Mistake("download without its sha256", PLAN, lab=("/w/qwen.gguf", "{url: https://hf.example/q8.gguf}")),
    Mistake("args as text", PLAN, lab=("port: 8000", "port: 8000, args: --threads 8 --jinja")),
    Mistake("hardware as text", PLAN, lab=("{A30: 2}", "A30")),
    Mistake("latest Docker", PLAN, lab=("version: 28.5.2", "version: latest")),
    Mistake("one name in connects_to", PLAN, lab=(
        "    models:\n", SERVICE.replace("[gateway]", "qwen") + "    models:\n")),
    Mistake("key from no source", PLAN, lab=("api_key: null", "api_key: {env: }")),
    Mistake("group that is not defined", PLAN, lab=("    models:\n", "    groups: [a30]\n    models:\n")),
    Mistake("name with a space", PLAN, lab=("      qwen:", "      my qwen:")),
    Mistake("service that connects to itself", PLAN, lab=("    models:\n", f"{SERVICE}    models:\n")),
    # --- what an audit of the first day found
    Mistake("misspelt field that is required", PLAN, lab=("port: 8000", "prot: 8000")),
    Mistake("ports of Compose", PLAN, lab=("port: 8000", 'ports: ["8000:8000"]')),
    Mistake("engine by its long name", PLAN, lab=("engine: vllm", "engine: text-embeddings-inference")),
    Mistake("engine by the name of its program", PLAN, lab=("engine: llama.cpp", "engine: llama-server")),
    Mistake("program that gpurack has no engine for", PLAN, lab=("engine: vllm", "engine: text-generation-inference")),
    Mistake("defaults of an engine by its long name", PLAN, lab=("vllm: {", "text-embeddings-inference: {")),
    Mistake("ssh configuration that is missing", DIFF, ssh="unknown", lab=(
        "gpu1.lab:\n", "gpu1.lab:\n    ssh_config_file: /nope\n")),
    Mistake("hardware with a word as number", PLAN, lab=("{A30: 2}", "{A3O: two}")),
    Mistake("ssh_key that is missing", DIFF, lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_key: ~/.ssh/id_lab\n")),
    Mistake("number as ssh_user", PLAN, lab=("gpu1.lab:\n", "gpu1.lab:\n    ssh_user: 1000\n")),
    Mistake("null in Python", PLAN, python=IN_PYTHON.replace("None", "null")),
    Mistake("inventory in JSON", "gpurack plan lab.json", files={"lab.json": '{"hosts": {}}'}),
    Mistake("limit of plan", "gpurack plan --limit gpu1.lab"),
    Mistake("check mode of Ansible", "gpurack apply --check"),
    Mistake("model in place of the inventory", "gpurack apply qwen"),
    Mistake("host and model in place of the inventory", "gpurack status gpu1.lab/qwen"),
    Mistake("version by a letter", "gpurack -V"),
    Mistake("daemon.json as text", PLAN, lab=(DOCKER, "{source: docker-ce, daemon: live-restore}")),
    Mistake("revision in the name of a repository", PLAN, lab=(
        "weights: /w/bge-m3", "weights: {hf: BAAI/bge-m3@main}")),
    Mistake("defaults beside hosts", PLAN, lab=("hosts:\n", "defaults: {bind: lan}\nhosts:\n")),
    Mistake("service among the models", PLAN, lab=(
        "port: 8001}", "port: 8001}\n      chat: {engine: open-webui, version: 0.12.4, port: 3000}")),
    Mistake("maintenance without a reason", PLAN, lab=("    hardware:", "    maintenance: true\n    hardware:")),
    Mistake("equals sign in YAML", PLAN, lab=("port: 8000", "port: 8000, args: {threads=8}")),
    Mistake("files of git that were not merged", PLAN, lab=("hosts:\n", "<<<<<<< HEAD\nhosts:\n")),
    Mistake("variable of a shell as key", PLAN, lab=("api_key: null", "api_key: $LAB_KEY")),
    Mistake("variable of a shell in weights", PLAN, lab=("/w/qwen.gguf", "$HOME/qwen.gguf")),
    Mistake("quotes of a word processor", PLAN, lab=("/w/qwen.gguf", "“/w/qwen.gguf”")),
    Mistake("repository with a colon", PLAN, lab=("weights: /w/bge-m3", "weights: hf:BAAI/bge-m3")),
    # --- what a second audit found
    Mistake("inventory without its verb", "gpurack inventories/lab.yaml"),
    Mistake("verb in capitals", "gpurack APPLY"),
    Mistake("variable of a shell that is empty", "gpurack plan ''"),
    Mistake("inventory as an option", "gpurack apply -i inventories/lab.yaml"),
    Mistake("limit by a letter", "gpurack apply -l gpu1.lab"),
    Mistake("limit of a model", "gpurack apply -y --limit gpu1.lab/qwen"),
    Mistake("limit of a short name", "gpurack apply -y --limit gpu1"),
    Mistake("force", "gpurack apply --force"),
    Mistake("retry without the model", "gpurack apply -y --retry gpu1.lab"),
    Mistake("retry of a misspelt model", "gpurack apply -y --retry gpu1.lab/qwne"),
    Mistake("tail of a log", "gpurack logs gpu1.lab/qwen --tail 10"),
    Mistake("word in place of lines", "gpurack logs gpu1.lab/qwen -n ten"),
    Mistake("host and model with a colon", "gpurack logs gpu1.lab:qwen"),
    Mistake("host without its model", "gpurack logs gpu1.lab/"),
    Mistake("inventory, host and model apart", "gpurack logs inventories/lab.yaml gpu1.lab qwen"),
    Mistake("number behind the model", "gpurack rollback gpu1.lab/qwen 2"),
    Mistake("hold without a reason", "gpurack stop gpu1.lab/qwen --hold"),
    Mistake("hold of start", "gpurack start gpu1.lab/qwen --hold fans"),
    Mistake("unknown word of image", "gpurack image load"),
    Mistake("inventory of schema", "gpurack schema inventories/lab.yaml"),
    Mistake("init beside an inventory", "gpurack init --lab nlp --host gpu1.lab"),
    Mistake("Python inventory that exits", PLAN, python=f"import sys\nsys.exit(0)\n{IN_PYTHON}"),
    Mistake("Python inventory without end", PLAN, python=(
        f'{IN_PYTHON}lab[0][0][1]["models"]["qwen"]["args"] = lab[0][0][1]\n')),
    Mistake("Compose file in place of the inventory", "gpurack plan compose.yaml", files={
        "compose.yaml": "services:\n  qwen:\n    image: vllm/vllm-openai\n"}),
    Mistake("inventory of Ansible", "gpurack plan hosts.yaml", files={
        "hosts.yaml": "all:\n  hosts:\n    gpu1.lab:\n"}),
    Mistake("INI inventory of Ansible", "gpurack plan hosts.ini", files={"hosts.ini": "[gpus]\ngpu1.lab\n"}),
    Mistake("no as a name", PLAN, lab=("      qwen:", "      no:")),
    Mistake("digits with a colon", PLAN, lab=("port: 8000", "port: 22:22")),
    Mistake("alias inside of its anchor", PLAN, files={"inventories/lab.yaml": "hosts: &a\n  gpu1.lab: *a\n"}),
    Mistake("tag of Python", PLAN, lab=("/w/qwen.gguf", "!!python/object/apply:os.getenv [LAB]")),
    Mistake("space of a web page", PLAN, lab=("    hardware:", "\u00a0\u00a0\u00a0\u00a0hardware:")),
    Mistake("second colon", PLAN, lab=("source: docker-ce", "source: docker: ce")),
    Mistake("host as text", PLAN, files={"inventories/lab.yaml": "hosts:\n  gpu1.lab: A30\n"}),
    Mistake("group as text", PLAN, lab=("hosts:\n", "groups: {a30: A30}\nhosts:\n")),
    Mistake("reserved GPUs as text", PLAN, lab=("    models:\n", '    reserved_gpus: "0 1"\n    models:\n')),
    Mistake("GPUs in one text", PLAN, lab=("gpus: [0]", 'gpus: "0,1"')),
    Mistake("all GPUs in capitals", PLAN, lab=("gpus: [0]", "gpus: ALL")),
    Mistake("no GPUs as a word", PLAN, lab=("gpus: [0]", "gpus: none")),
    Mistake("port with a zero in front", PLAN, lab=("port: 8000", "port: 08000")),
    Mistake("context as a fraction", PLAN, lab=("port: 8000", "port: 8000, context: 4096.0")),
    Mistake("number as truth value", PLAN, lab=("port: 8000", "port: 8000, enabled: 0")),
    Mistake("number as user", PLAN, lab=("port: 8000", "port: 8000, user: 1000")),
    Mistake("several served names", PLAN, lab=("port: 8000", "port: 8000, served_name: [qwen, chat]")),
    Mistake("image and version", PLAN, lab=("port: 8000", "port: 8000, image: ghcr.io/x/y:1, version: b7000")),
    Mistake("build without a repository", PLAN, lab=("port: 8000", "port: 8000, image: {build: {}}")),
    Mistake("command of a key as text", PLAN, lab=("api_key: null", "api_key: {command: pass show lab}")),
    Mistake("command of a key that fails", PLAN, lab=(
        "api_key: null", "api_key: {command: [sh, -c, 'echo the store is locked >&2; exit 3']}")),
    Mistake("command of a key that prints nothing", PLAN, lab=("api_key: null", "api_key: {command: ['true']}")),
    Mistake("key from environ", PLAN, lab=("api_key: null", "api_key: {environ: LAB_KEY}")),
    Mistake("key from $LAB_KEY", PLAN, lab=("api_key: null", "api_key: {env: $LAB_KEY}")),
    # --- what a third audit found
    Mistake("inventory of another folder", "gpurack plan lab.yaml"),
    Mistake("device in place of the inventory", "gpurack plan /dev/null"),
    Mistake("path of Windows in place of the inventory", "gpurack plan C:/labs/gpus.yaml"),
    Mistake("inventory as a long option", "gpurack apply --inventory=inventories/lab.yaml"),
    Mistake("dash of a word processor", "gpurack plan –strict"),
    Mistake("dash of a word processor behind the inventory", "gpurack apply inventories/lab.yaml –dry"),
    Mistake("user as an option", "gpurack apply -u root"),
    Mistake("password of sudo as an option", "gpurack apply --ask-become-pass"),
    Mistake("option of pyinfra", "gpurack apply --data retry=gpu1.lab/qwen"),
    Mistake("format of kubectl", "gpurack plan -o json"),
    Mistake("watch by a letter", "gpurack status -w"),
    Mistake("check mode of a verb that changes nothing", "gpurack plan --check"),
    Mistake("check mode of prune", "gpurack prune --dry-run"),
    Mistake("limit where the host is an argument", "gpurack history --limit gpu1.lab"),
    Mistake("history of an unknown host", "gpurack history gpu9"),
    Mistake("history of a model", "gpurack history gpu1.lab/qwen"),
    Mistake("limit to all", "gpurack apply -y --limit all"),
    Mistake("option that needs another", "gpurack apply --fail-on-change"),
    Mistake("number below the smallest", "gpurack rollback gpu1.lab/qwen --to 0"),
    Mistake("restart of two models", "gpurack restart qwen bge-m3"),
    Mistake("restart of two models of a host", "gpurack restart gpu1.lab/qwen gpu1.lab/bge-m3"),
    Mistake("shell in a container", "gpurack exec inventories/lab.yaml gpu1.lab/qwen bash"),
    Mistake("word of kubectl", "gpurack describe gpu1.lab"),
    Mistake("docker run as arguments of import", "gpurack import docker run -p 80:80 nginx"),
    Mistake("host of verify", "gpurack verify inventories/lab.yaml gpu1.lab"),
    Mistake("init in a folder of an empty variable", "gpurack init ''"),
    Mistake("init with hosts in one word", "gpurack init new --lab nlp --host gpu1.lab,gpu2.lab"),
    Mistake("init with an address", "gpurack init new --lab nlp --host ssh://gpu1.lab"),
    Mistake("init with a host of an empty variable", "gpurack init new --lab nlp --host ''"),
    Mistake("init with a name that is too long", f"gpurack init {'a' * 300} --lab nlp"),
    Mistake("address in place of the file to import", "gpurack import https://uni.example/compose.yaml"),
    Mistake("port as a list", PLAN, lab=("port: 8000", "port: [8000]")),
    Mistake("comma in a number", PLAN, lab=("port: 8000", "port: 8000, context: 32,768")),
    Mistake("field without a value in braces", PLAN, lab=("port: 8000", "port: 8000, enabled")),
    Mistake("template of Ansible", PLAN, lab=("/w/qwen.gguf", "{{ weights }}/qwen.gguf")),
    Mistake("hosts without any", PLAN, files={"inventories/lab.yaml": "hosts: {}\n"}),
    Mistake("models beside their host", PLAN, lab=("    models:", "  models:")),
    Mistake("address of a file as weights", PLAN, lab=("/w/qwen.gguf", "file:///w/qwen.gguf")),
    Mistake("weights of this folder", PLAN, lab=("/w/qwen.gguf", "./qwen.gguf")),
    Mistake("GPU with its maker's name", PLAN, lab=("{A30: 2}", "{NVIDIA A30: 2}")),
    Mistake("Python inventory with a byte order mark", PLAN, python="\ufeff" + IN_PYTHON),
    Mistake("Python inventory with a set for a host", PLAN, python='lab = [("gpu1.lab", {"models"})]\n'),
    Mistake("Python inventory with a number as host", PLAN, python='lab = [(1, {"models": {}})]\n'),
    Mistake("Python inventory with a list for a host", PLAN, python='_all = [5]\nlab = [("gpu1.lab", _all)]\n'),
)  # fmt: skip
