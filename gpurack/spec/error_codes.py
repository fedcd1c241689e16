"""Every kind of error and warning: its stable code, its sentences and its cause (docs/errors.md).

Those that need a host are in live_codes.py, and part of `CODES`. A code never changes its meaning; its sentences may.
`Problem.of(code, host, path, …)` fills in the parameters.
"""

from collections.abc import Mapping

from gpurack.spec.code import Code, warning
from gpurack.spec.live_codes import LIVE

SPELLING = "Use the suggested name, or one of docs/inventory.md."
SOURCES = '{{"hf": …}}, {{"modelscope": …}}, {{"url": …, "sha256": …}} or {{"copy": …}}'

SHAPE: Mapping[str, Code] = {
    "unknown-field": Code(
        'unknown field "{name}".',
        "{hint}",
        "The inventory has no such field in this place. A misspelt field would otherwise be ignored.",
        SPELLING,
    ),
    "unknown-key": Code(
        'unknown key "{name}".', "{hint}", "A YAML inventory has the keys `all`, `groups` and `hosts`.", SPELLING
    ),
    "unknown-compose-key": Code(
        'unknown Compose key "{name}".',
        "{hint}",
        "Compose has no such key for a service, and would refuse the compose file of all models.",
        SPELLING,
    ),
    "unknown-engine": Code(
        'unknown engine "{name}".',
        "{hint}",
        "gpurack has no engine of this name.",
        "Use one of docs/engines.md, or `custom` for an image of your own.",
    ),
    "unknown-model": Code(
        'unknown model "{name}".',
        "{hint}",
        "No entry of the inventory has this key or serves this name.",
        "Name a key of `models` or `services`, or a served name.",
    ),
    "unknown-group": Code(
        'unknown group "{name}".', "{hint}", "A host's `groups` names a group that the file does not define.", SPELLING
    ),
    "unknown-host": Code(
        'unknown host "{name}".', "{hint}", "The inventory has no host of this name.", "Name a host of the inventory."
    ),
    "unknown-lock-part": Code(
        'unknown part of the lock "{name}".',
        "{hint}",
        "`gpurack lock --upgrade` takes parts of the lock and names of models.",
        "Name one of the known parts, or a model.",
    ),
    "invalid-host-name": Code(
        "is not the name of a host.",
        "{hint}",
        "A host is named as ssh connects to it. User and port have fields of their own.",
        "Write the name alone; `ssh_user` and `ssh_port` are fields of the host.",
    ),
    "no-groups": Code(
        'unknown group "{name}": the file defines no groups.',
        'Add it to the map "groups", or remove it from the host.',
        "A host's `groups` names a group, but the file has no map `groups`.",
    ),
    "missing-field": Code("is missing.", "{hint}", "The field is required.", "Add the field: docs/inventory.md."),
    "section-without-value": Code(
        "has no value.",
        "Is it indented wrongly? {hint}",
        "A section without a value would remove everything from the host that an earlier run started.",
    ),
    "entry-outside-section": Code(
        'unknown field "{name}", which looks like a model.',
        "Indent it below `models`, `services` or `jobs`. (Names of helpers begin with _.)",
        "pyinfra passes unknown fields on, so a model with too little indentation would be ignored, and then removed.",
    ),
    "invalid-lab": Code(
        '"{value}" is not a valid name for a lab.',
        "Use up to 63 letters, digits and `.`, `_`, `-`, as in nlp-group.",
        "The name is kept in the host's record and shown to other labs.",
    ),
    "wrong-type": Code(
        "must be {expected}, not {value}.",
        "{hint}",
        "Values are never converted silently, so that a typing error cannot change what is deployed.",
        "Write a value of the named type.",
    ),
    "out-of-range": Code(
        "must be {limit}, not {value}.",
        "{hint}",
        "The number is outside the allowed range.",
        "Write a number in the range.",
    ),
    "empty-value": Code("is empty.", "", "The field needs a value.", "Give a value, or remove the field."),
    "connection-field-empty": Code(
        "is empty.",
        "Write {example}, or remove the line.",
        "pyinfra takes no empty value for a field of the connection: null does not remove it.",
        "Give a value, or remove the field.",
    ),
    "unknown-value": Code(
        "must be {expected}, not {value}.", "", "The field takes one of a few words.", "Use one of the listed words."
    ),
    "invalid-value": Code("{what}.", "", "The value cannot be used in this field.", "See docs/inventory.md."),
    "version-not-text": Code(
        "a version must be text, and without quotes this is a number.",
        "{hint}",
        "An unquoted version is a number, and loses its trailing zeros.",
        "Write the version in quotes.",
    ),
    "invalid-version": Code(
        '"{value}" is not a version.',
        'Write it as upstream does: "28.5.2" or "b7000".',
        "A version consists of letters, digits and `.+~_-`.",
    ),
    "version-with-v": Code(
        '"{value}" begins with v, which belongs to the tag, not to the version.',
        'Write "{right}".',
        "gpurack adds the v where an image or package has one.",
    ),
    "path-not-absolute": Code(
        '"{value}" is not an absolute path on the host.', "Start it with /.", "Paths on hosts are absolute."
    ),
    "value-not-text": Code(
        "{name}: {what} must be text.",
        'Write "{item}", in quotes.',
        "Numbers and booleans are not converted: Python and YAML spell them differently.",
    ),
    "contains-itself": Code(
        "contains itself.",
        "Write its value in place of the name that leads back to it.",
        "A map or list of a Python inventory has itself as a part, and so no end.",
    ),
    "not-plain-data": Code(
        "contains more than text, numbers, booleans, lists and maps with text as keys.",
        "Put the value in quotes.",
        "The value is written as JSON or YAML, which has no dates or other objects.",
    ),
}

FILES: Mapping[str, Code] = {
    "no-inventory-file": Code("file not found.", "", "The inventory file does not exist.", "Check the path."),
    "confirmation-missing": Code(
        "Confirmation needs a terminal. Nothing was changed.",
        "Run with -y to apply, or gpurack diff to see the changes.",
        "Without -y, an admin confirms the changes. A script cannot.",
    ),
    "command-line-wrong": Code(
        "{what}",
        "{hint}",
        "An argument or an option is missing, unknown or contradicts another. Nothing was done.",
        "`--help` of the command has its arguments and an example.",
    ),
    "command-failed": Code(
        "{what}",
        "{hint}",
        "This computer lacks something, such as a package or room for a file.",
        "Do what the message says.",
    ),
    "inventory-not-given": Code(
        "no inventory given, and this folder has none.",
        "Run `{command} PATH`, or change to the folder of your inventory. `gpurack init DIR` writes a new one.",
        "Without INVENTORY, a command takes the only one of the folder or of its folder inventories/.",
    ),
    "several-inventories": Code(
        "no inventory given, and this folder has several: {paths}.",
        "Name one: `{command} {first}`.",
        "Without INVENTORY, a command takes the only one of the folder or of its folder inventories/.",
    ),
    "host-given": Code(
        "is a host, not an inventory.",
        "Run `{command}`.",
        "The first argument is the inventory file; `--limit` chooses hosts in it.",
    ),
    "model-given": Code(
        "is a model of {hosts}, not an inventory.",
        "Run `{command}`.",
        "The first argument is the inventory file. A run changes only what differs from it.",
        "Name the inventory file.",
    ),
    "inventory-misspelt": Code(
        "file not found.", "Did you mean {guess}?", "The inventory file does not exist.", "Check the path."
    ),
    "dash-of-a-word-processor": Code(
        "begins with a dash of a word processor.",
        "Write `{right}`.",
        "Options begin with two hyphens, which word processors and web pages join to one dash.",
    ),
    "inventory-not-a-file": Code(
        "is not a file.",
        "Give an inventory: `{command} {inventory}`.",
        "Hosts and models are described in a file; a host name alone says nothing about models.",
    ),
    "deploy-given": Code(
        "is a deploy, not an inventory.",
        "gpurack needs no deploy file: `{command}`.",
        "Only the command pyinfra takes deploys, after the inventory.",
    ),
    "deploy-before-inventory": Code(
        "is a deploy; the inventory comes first.",
        "Run `pyinfra {inventory} {deploy}`, or `gpurack apply {inventory}`.",
        "pyinfra would take the deploy for an inventory.",
    ),
    "host-given-to-pyinfra": Code(
        "is not an inventory file, so no host has any models.",
        "Run `pyinfra INVENTORY deploys/gpu_host.py --limit {name}`, or `gpurack apply --limit {name}`.",
        "pyinfra takes any other word for the name of a host without data.",
    ),
    "inventory-is-folder": Code(
        "is a folder.", "{hint}", "gpurack reads one inventory file at a time.", "Name the inventory file in it."
    ),
    "file-unreadable": Code(
        "cannot be read: {why}.", "", "The file could not be opened.", "Check path and permissions."
    ),
    "not-utf8": Code("is not UTF-8 text (byte {byte}).", "Save it as UTF-8.", "Inventories are UTF-8 text."),
    "inventory-ending": Code(
        "was read as Python, because its name does not end in .yaml, but is not a valid Python inventory.",
        "If it is YAML or JSON, which is YAML also, rename it to {right}.",
        "gpurack reads .yaml and .yml as YAML, and everything else as Python.",
        "Rename the file.",
    ),
    "invalid-yaml": Code(
        "{what}.", "{hint}", "The file is not valid YAML, or has a key twice.", "Correct the named line."
    ),
    "invalid-python": Code("is not valid Python ({what}){line}", "", "Python could not parse it.", "Correct the line."),
    "inventory-raised": Code(
        "Python stopped here: {what}{hint}",
        "",
        "The inventory, or a file of group_data, raised an exception when it ran.",
        "Correct the named line, or set the environment variable it reads.",
    ),
    "no-hosts-map": Code(
        'needs a map "hosts" (name → fields).',
        "{hint}",
        "A YAML inventory lists its hosts under `hosts`.",
        "Write the hosts as a map: docs/inventory.md.",
    ),
    "no-hosts": Code(
        "the inventory has no hosts.",
        'Write lab = [("gpu1.lab", {{"models": {{…}}}})] at the top of the file. pyinfra reads only lists there, and '
        'no names that begin with _. A YAML file is loaded by globals().update(gpurack.load("lab.yaml")).',
        "pyinfra found no list of hosts at the top of the file.",
    ),
    "no-models": Code(
        "no host has any models.",
        "Add a `models` map to a host (docs/inventory.md). To stop a host's last model, keep its entry with `enabled: "
        "false`; to leave a host alone, set `maintenance`. For Docker and the toolkit alone, call `docker` and "
        "`nvidia_toolkit` of gpurack.deploys by pyinfra (docs/own-project.md).",
        "A deploy of models without any model is usually a mistake.",
    ),
    "yaml-given-to-pyinfra": Code(
        "pyinfra reads no YAML.", "{hint}", "pyinfra takes Python inventories only.", "Load the YAML from a .py file."
    ),
    "ignored-by-pyinfra": Code(
        "pyinfra ignores `{name}` at the top of an inventory.",
        "Put it into group_data/all.py beside the inventory, or into the data of a group: group = ([hosts], {{data}}).",
        "A dict at the top of the file is a Python variable, not data of hosts.",
    ),
    "key-given-twice": Code(
        '"{name}" is given twice; Python keeps only the last.',
        "Rename or remove one.",
        "The first would be lost silently, and a run would remove its model.",
    ),
    "host-given-twice": Code(
        '"{name}" is in this list twice; pyinfra keeps only the last.',
        "Merge the two entries.",
        "The data of the first would be lost silently.",
    ),
    "not-a-group": Code(
        "`{name}` is not a group of hosts.",
        'Write {name} = [("gpu1", {{…}})], or {name} = ([hosts], {{…}}) with the data of all of them. Start the name '
        "of a helper with _.",
        'pyinfra would read each letter of ("gpu1", {…}) as a host.',
    ),
    "limit-matches-nothing": Code(
        "--limit {limit} matches no host.",
        "{hint}",
        "No host or group has this name or pattern.",
        "Name a host or a group of the inventory.",
    ),
}

HOSTS: Mapping[str, Code] = {
    "invalid-address": Code(
        '"{value}" is not a host name or IP address.',
        "",
        "It goes into URLs.",
        "Write it without scheme, port or path.",
    ),
    "docker-kept-with-version": Code(
        '`source: "keep"` leaves Docker unchanged, so `version` has no effect.',
        "Remove one of them.",
        "gpurack does not install a Docker that it is told to keep.",
    ),
    "daemon-key-not-a-map": Code(
        "`{key}` must be a map, not {value}.",
        "",
        "dockerd refuses other types.",
        "Write a map, as in dockerd's manual.",
    ),
    "ca-unreadable": Code("{file} cannot be read: {why}.", "", "`ca` is a file on this machine.", "Check the path."),
    "ca-not-text": Code(
        "{file} is not text.",
        "Convert it to PEM: openssl x509 -inform der -in FILE -out FILE.pem",
        "The certificate is in DER, and hosts install PEM.",
    ),
    "ca-without-certificate": Code(
        "{file} contains no certificate (-----BEGIN CERTIFICATE-----).",
        "Use a PEM file.",
        "The file has no block that is a certificate.",
    ),
    "unknown-mirror": Code(
        'unknown registry (write its full name, as in "ghcr.io").',
        "{hint}",
        "`mirrors` takes `docker-ce`, `nvidia`, `huggingface`, `modelscope`, and names of registries.",
        "Write the registry's host name, without scheme and path.",
    ),
    "mirror-with-scheme": Code(
        "a registry's mirror has no scheme ({scheme}).", 'Write "{rest}".', "Docker takes registries without a scheme."
    ),
    "invalid-mirror-registry": Code(
        '"{value}" is not a valid registry.',
        "Write host[:port][/prefix], the prefix in lower case, without spaces.",
        "It becomes the beginning of image references.",
    ),
    "mirror-without-scheme": Code(
        '"{value}" is not an http or https URL.', 'Write "https://{rest}".', "Package repositories and hubs need a URL."
    ),
    "invalid-mirror-url": Code(
        '"{value}" is not a valid URL.',
        "Write a host after the scheme, and no spaces.",
        "The URL has no host, or spaces.",
    ),
    "invalid-ipv6-url": Code(
        '"{value}" is not a valid URL.', "Put an IPv6 address in [ ].", "A bracket of an IPv6 address is missing."
    ),
    "mirror-key-unreadable": Code(
        "{file} cannot be read: {why}.",
        "",
        "The key is a file on this machine.",
        "Check the path; it has to be armored.",
    ),
    "mirror-with-login": Code(
        "contains credentials, which apt and dnf would keep in files that every user can read.",
        "Give a registry's login in `registries`; let a package mirror allow the hosts by address.",
        "Credentials do not belong in an inventory.",
    ),
    "proxy-with-login": Code(
        "contains credentials, which apt, dnf and dockerd would keep in files that every user can read.",
        "Name a forwarder that logs in for the hosts (cntlm, or squid with cache_peer login=).",
        "Credentials do not belong in an inventory.",
    ),
    "invalid-proxy": Code(
        '"{value}" is not a proxy\'s URL.',
        'Write "http://proxy.lab.example:3128".',
        "The proxy is scheme, host and port.",
    ),
    "invalid-no-proxy": Code(
        '"{value}" is not one name, domain or address.',
        "List each entry separately.",
        "`no_proxy` is a list, which gpurack joins with commas.",
    ),
    "registry-with-path": Code(
        "a registry is named by its host alone.",
        'Write "{registry}".',
        "Docker looks up logins by the registry's host.",
    ),
    "registry-behind-mirror": Code(
        "its images come from {mirror} (mirrors), so this login is never used.",
        'Name "{registry}" instead.',
        "A login is sent to the registry that is asked, which is the mirror.",
    ),
    "invalid-user-name": Code(
        "is not a valid user name.", "", "It becomes part of paths.", "Use letters, digits and `_.-`."
    ),
    "root-is-not-rootless": Code(
        "root uses the host's own Docker.",
        "Remove this entry, and `user` from its models.",
        "A rootless Docker belongs to a user other than root.",
    ),
    "user-without-docker": Code(
        "{user} has no rootless Docker on this host.",
        'Add docker: {{"rootless": {{"{user}": {{}}}}}}.',
        "gpurack sets up a rootless Docker for each user in `docker.rootless`.",
    ),
    "port-needs-root": Code(
        "{port} is reserved for root.",
        "Give {user} a port of 1024 or above.",
        "Rootless Docker cannot bind lower ports.",
    ),
    "no-cgroups-takes-gpus": Code(
        "`system` would take the GPUs from {names} in the host's own Docker.",
        "Remove it: users get a configuration of their own.",
        "The hook reads one system-wide setting, also for containers of the host's own Docker.",
    ),
}

SECRETS: Mapping[str, Code] = {
    "secret-in-inventory": Code(
        "a secret does not belong in an inventory.",
        'Say where it is: {{"env": "NAME"}}, {{"file": "~/path"}} or {{"command": ["pass", "show", "lab"]}}.',
        "Inventories are committed and shared.",
    ),
    "secret-variable-not-read": Code(
        "`${name}` is not filled in here.",
        'Write {{"env": "{name}"}}.',
        "An inventory is data: no shell reads it.",
    ),
    "invalid-secret-variable": Code(
        "is not the name of an environment variable.",
        'Use letters, digits and _ only: {{"env": "LAB_KEY"}}.',
        "The value is not repeated, because it may be the secret itself.",
    ),
    "one-secret-source": Code(
        'must have exactly one of "env", "file" and "command".',
        'Write {{"env": "LAB_KEY"}}, {{"file": "~/path"}} or {{"command": ["pass", "show", "lab"]}}.',
        "A secret has one source.",
        "Keep one of the three.",
    ),
    "secret-unreadable": Code(
        "{what}",
        "",
        "The secret could not be read on this machine, or is not one printable line.",
        "Set the variable, correct the file, or run the command by hand.",
    ),
    "secret-shared": Code(
        "is the same key as {other}.",
        "Give each its own key.",
        "Removing one entry would not revoke the key, because the other still has it.",
    ),
}

IMAGES: Mapping[str, Code] = {
    "one-image-source": Code(
        "needs either `version` or `image`, and has {has}.",
        "Give `version` for gpurack to choose the image, or `image` to choose it yourself.",
        "Each entry runs one image.",
    ),
    "image-missing": Code("is missing.", "{hint}", "This engine has no image of its own.", "Name an image."),
    "invalid-image": Code(
        '"{value}" is not an image.',
        'Name it as `docker pull` takes it: "ghcr.io/lab/llama:1.2".',
        "It does not follow Docker's rules for references.",
    ),
    "invalid-image-form": Code(
        "{value} is not an image.", 'Write a name, {{"tar": …}} or {{"build": …}}.', "An image has one of three forms."
    ),
    "invalid-git-address": Code(
        '"{value}" is not the address of a git repository.',
        "Write https://…, ssh://… or git@host:….",
        "The host clones it, so that it has to be reachable from there.",
    ),
    "git-with-password": Code(
        "contains a password, which does not belong in an inventory.",
        "Configure it in the host's own git.",
        "Inventories are committed and shared.",
    ),
    "invalid-repository-file": Code(
        '"{value}" is not the path of a file in the repository.',
        "Write it relative to the root of the repository.",
        "The path is absolute, leads out of the repository, or holds white space.",
    ),
    "invalid-stage": Code(
        '"{value}" is not the name of a build stage.', "Name a stage of the Dockerfile.", "Stages have plain names."
    ),
    "image-tar-unreadable": Code(
        "{file} cannot be read: {why}.", "", "The tar is a file on this machine.", "Check the path, or save it again."
    ),
    "image-tar-invalid": Code(
        "{file} {what}",
        "",
        "The file is not what `docker save` writes for one image.",
        "Save one image: `docker save IMAGE -o FILE`.",
    ),
}

WEIGHTS: Mapping[str, Code] = {
    "weights-missing": Code("is missing.", f"Give a path on the host, {SOURCES}.", "This engine serves weights."),
    "weights-not-taken": Code(
        "{engine} takes no weights{why}.", "Remove `weights`.", "The engine gets its models in another field."
    ),
    "weights-path-relative": Code(
        '"{value}" is not a path on the host.',
        "{hint}",
        "Text is a path on the host, which is absolute.",
        "Write an absolute path, or a map that names the source.",
    ),
    "invalid-weights": Code(
        "{value} is not a source of weights.", f"Write a path on the host or {SOURCES}.", "It has no known form."
    ),
    "unknown-weights-source": Code(
        "unknown source of weights: {kinds}.",
        f"Write a path on the host or {SOURCES}.",
        "gpurack fetches from four sources.",
    ),
    "several-weights-sources": Code(
        "weights have one source, not {kinds}.", "Keep one of them.", "Each entry has one set of weights."
    ),
    "invalid-repository": Code(
        '"{value}" is not a repository.',
        "{hint}",
        "Hubs name repositories owner/name.",
        "Write the owner and the name, without the address of the hub.",
    ),
    "invalid-revision": Code(
        '"{value}" is not a revision.', "Write a commit, a tag or a branch.", "git has no revision of this form."
    ),
    "invalid-url": Code(
        '"{value}" is not an http:// or https:// URL.', "Write the whole URL.", "The host fetches it by HTTP."
    ),
    "invalid-sha256": Code(
        '"{value}" is not a SHA-256.',
        "Write the 64 digits (0-9, a-f) that `sha256sum` prints.",
        "Nothing unverified is ever used.",
    ),
    "url-with-login": Code(
        "contains credentials, which would show in every error about this file.",
        'Let the server allow the hosts by address, or copy the file from this machine: {{"copy": "/…/model.gguf"}}.',
        "Credentials do not belong in an inventory.",
    ),
    "weights-part-by-url": Code(
        "{name} is one part of several, and the SHA-256 covers one file.",
        'Use {{"hf": …, "file": …}} or {{"copy": …}}, which bring all parts, or put them on the host.',
        "llama.cpp needs all parts of a split GGUF in one folder.",
    ),
    "weights-file-missing": Code(
        "{engine} reads one {suffix} file, not a repository.",
        'Name it: {{…, "file": "….gguf"}}.',
        "A repository usually holds several quantizations.",
    ),
    "weights-format": Code(
        "{engine} reads {formats}, not {name}.",
        "",
        "The engine cannot load this format.",
        "Use other weights or another engine.",
    ),
    "copy-missing": Code(
        "{file} is not on this machine.", "", "`copy` names a local file or folder.", "Check the path."
    ),
    "copy-empty": Code(
        "{file} contains no files.", "", "There is nothing to copy.", "Name the folder with the weights."
    ),
    "copy-parts-missing": Code(
        "missing on this machine: {parts} of {file}.",
        "",
        "llama.cpp needs all parts of a split GGUF.",
        "Put all parts beside the named one.",
    ),
    "copy-unreadable": Code(
        "{file} cannot be read: {why}.", "", "A file to copy is not readable.", "Check permissions."
    ),
}

ENTRIES: Mapping[str, Code] = {
    "invalid-entry-name": Code(
        "is not a valid container name.",
        "Use two or more letters, digits and _ . -, beginning with a letter or digit.",
        "The name of an entry is the name of its container.",
    ),
    "name-used-twice": Code(
        "a {kind} already has this name.", "Choose another.", "Two containers cannot have the same name."
    ),
    "port-used-twice": Code(
        "port {port} is used by both `{one}` and `{other}`.",
        "Change one of them, for example to {free}.",
        "Two containers cannot publish the same port at addresses that overlap.",
    ),
    "served-name-used-twice": Code(
        'served name "{name}" is used by both `{one}` and `{other}`.',
        "Change one of them.",
        "A gateway, and clients, could not tell the two models apart.",
    ),
    "invalid-bind": Code(
        '"{value}" is not "loopback", "lan", "any" or an IP address.',
        'Write "loopback" for the host itself, or "lan" for its network.',
        "Nothing else can be bound.",
        "Use one of these.",
    ),
    "invalid-rate": Code(
        "{value} is not a rate.",
        "Write it with its unit, as in 50MB/s.",
        "A number without a unit could be bits or bytes.",
    ),
    "invalid-vram": Code(
        "{value} is not an amount of memory.", 'Write "6GiB" or "30%" (of each GPU).', "Memory is GiB, or a percentage."
    ),
    "invalid-duration": Code(
        "{value} is not a duration.", 'Write "90s", "45min" or "2h".', "A duration is a whole number with a unit."
    ),
    "wrong-section": Code(
        "{engine} belongs in `{section}`.",
        "Move the entry there.",
        "Gateways and web UIs are services, engines are models.",
    ),
    "service-with-gpus": Code(
        "services get no GPUs.", "Move the entry to `models`.", "GPUs are assigned to models and jobs only."
    ),
    "invalid-connects-to": Code(
        'must be a list of names or "all", not {value}.',
        "{hint}",
        "A service connects to named entries.",
        "Write a list.",
    ),
    "connects-to-missing": Code(
        "is missing.", 'List {entries}, or write "all".', "The service is useless without a model."
    ),
    "connects-to-itself": Code(
        "{name} is this service itself.", "{hint}", "It would call itself.", "Name the models it uses."
    ),
    "upstream-on-loopback": Code(
        "{name} on {host_of} is bound to loopback, so {who} cannot reach it.",
        'Give it bind: "lan".',
        "A published port on loopback is reachable from its own host only.",
    ),
    "upstream-is-web-ui": Code(
        "{name} is a web UI, not a model.", "Name models or gateways.", "A web UI has no API that a service could use."
    ),
    "upstream-not-usable": Code("{what}", "", "This service cannot use that engine.", "Connect it to another model."),
    "upstream-key-unknown": Code(
        "{name} has keys, but none for {service}.",
        'Add "{service}" to its keys, or give it an api_key.',
        "The service would be refused by the model.",
    ),
    "invalid-args": Code(
        "must be a map of flags, not {value}.", "Write {flags}.", "Flags are names with values.", "Write a map."
    ),
    "flag-name-not-text": Code("{name}: a flag is text.", 'Write "{name}" in quotes.', "Names are never converted."),
    "flag-with-dashes": Code('"{name}" has dashes.', 'Write "{bare}".', "gpurack writes the dashes itself."),
    "invalid-flag-value": Code(
        "{name}: {value} is not a flag's value.",
        "Write true, false, text, a number, or a list of texts and numbers.",
        "Nothing else can be written on a command line.",
    ),
    "set-by-gpurack": Code(
        "gpurack sets this itself.", "{hint}", "The inventory has a field for it.", "Use that field."
    ),
    "flag-removed": Code(
        "{engine} no longer has --{flag}.", "{hint}", "The engine would end at start.", "Use what replaced the flag."
    ),
    "flag-unknown": Code(
        "{engine} {version} has no {flag}.", "{hint}", "The engine would end at start.", "Check the engine's manual."
    ),
    "field-without-effect": Code(
        "`{field}` has no effect on {engine}.",
        "{hint}",
        "The engine does not support the field.",
        "Remove it from the entry.",
    ),
    "engine-without-keys": Code(
        "{engine} cannot check keys.",
        "Write api_key: null, and put a gateway in front of it.",
        "The API would be open although the inventory gives a key.",
    ),
    "key-by-config-flag": Code(
        "gpurack passes the key in a --config file, and SGLang takes only one.",
        "Remove `config` from args, or the key.",
        "The second --config would replace the first.",
    ),
    "one-gpu-only": Code(
        "{engine} uses one GPU.", "Give it one, and add a second entry for a second GPU.", "It does not split models."
    ),
    "gpus-and-parallelism": Code(
        "{parallelism} needs {needed} GPUs, `gpus` lists {listed}.",
        "Change the flags or the list.",
        "The engine starts one worker per GPU, and the product of its parallel sizes is their number.",
    ),
    "first-account-only": Code(
        "must be one account, by its e-mail address: the administrator's.",
        'Write {{"admin@uni.example": {{"env": "PASSWORD"}}}}.',
        "gpurack creates the first account only; other users register in the web UI.",
    ),
    "one-model-only": Code(
        "llama-gpt (legacy) shows one model.",
        "Name one entry of llama-cpp-python. For several models use open-webui, its successor.",
        "It has no list of models.",
    ),
    "invalid-expose": Code(
        'must be a list of ports, ["7860"].', "", "The first is the port inside.", "List the ports, the server's first."
    ),
    "invalid-ready-path": Code(
        'must be the path that answers 200 when ready, "/health".',
        "",
        "gpurack asks it.",
        "Write a path starting with /.",
    ),
    "invalid-ollama-model": Code(
        '"{name}" is not a model of ollama.',
        'Write it as for `ollama pull`: "qwen2.5:7b".',
        "ollama could not pull it.",
    ),
    "build-without-letter": Code(
        "llama.cpp's builds begin with a letter.", 'Write "b{version}".', "Upstream has no image tag without it."
    ),
    "no-effect-beside-config": Code(
        "has no effect beside `config`.", "Write it into config.models.", "`config` replaces the fields of one model."
    ),
    "config-without-models": Code(
        "must be a list of models.", 'Write [{{"model": …, "model_alias": …}}].', "llama-cpp-python serves this list."
    ),
    "config-model-missing": Code(
        "is missing.", 'Give the path of a .gguf file, or {{"url": …, "sha256": …}}.', "Each model needs its weights."
    ),
    "alias-used-twice": Code(
        "another model has this alias, and would answer for both.", "Give each its own.", "Clients ask by the alias."
    ),
    "job-image-missing": Code(
        "{what}", "", "Only some engines have images for jobs.", "Use such an engine, or `image`."
    ),
    "job-does-not-end": Code("{what}", "", "A job ends by itself, a server does not.", "Move a server to `models`."),
    "job-without-weights": Code(
        "the command names {{weights}}, but the job has no weights.",
        "Add `weights`.",
        "Without weights, no path can be inserted.",
    ),
    "job-placeholder-unknown": Code(
        "unknown placeholder {word} in the command.", "Did you mean {{weights}}?", "Only {weights} is replaced."
    ),
    "invalid-result": Code(
        '"{value}" is not a path inside `folder`.',
        "Write a relative path without `..`.",
        "A job writes into its folder.",
    ),
}

GPUS: Mapping[str, Code] = {
    "invalid-gpu": Code(
        "{value} is not a GPU.",
        'Write its index (0), the beginning of its UUID ("GPU-6f1c") or its PCI address ("0000:65:00.0").',
        "GPUs are named by index, UUID or PCI address, MIG instances by UUID.",
    ),
    "invalid-gpu-memory": Code(
        '"{value}" is not an amount of memory.', 'Write it as "24GiB".', "The memory of a GPU in `hardware` is in GiB."
    ),
    "hides-gpus": Code(
        "{name} changes which GPUs the engine sees.",
        "Remove it and name the GPUs in `gpus`; in the container they count from 0.",
        "A container sees exactly the GPUs in `gpus`. A second list, with numbers of the host, leaves it without any.",
    ),
    "gpus-bare-number": Code(
        "{value} is ambiguous: a number of GPUs, or the GPU of that index.",
        "Write [{value}] for GPU {value}.",
        "To Docker, `count: 2` is two GPUs; to an admin, 2 is the third.",
    ),
    "gpus-not-a-list": Code(
        "{value} is not a list of GPUs.",
        "{hint}",
        "GPUs are a list, also a single one.",
        "Write a list of indices or UUIDs.",
    ),
    "gpu-listed-twice": Code("{value} names a GPU twice.", "Remove one.", "A container gets each GPU once."),
    "mig-together": Code(
        "wants {count} MIG instances, but a process computes on one.",
        "Give it one instance, or a GPU that is not in MIG mode.",
        "CUDA shows a process only its first MIG instance, so tensor parallel over them is impossible.",
    ),
    "gpus-apart": Code(
        "wants {one} and {other}, which cannot share a CUDA context.",
        "Name the GPUs of one kind by their indices.",
        "On a DGX Station a program that sees the GB300 and the other GPU crashes.",
    ),
    "gpu-not-found": Code(
        "{gpu} does not exist; {has}.{broken}",
        "Choose one of these{also}.",
        "The host, or what `hardware` says of it, has no such GPU.",
        "Correct the number, or `hardware`.",
    ),
    "gpu-claimed-twice": Code(
        "{what}", "{hint}", "Several entries want a whole GPU.", "Choose another GPU, or set `vram` for each entry."
    ),
    "vram-exceeded": Code(
        "{what}", "{hint}", "The shares are more than the GPU has.", "Lower `vram`, or choose another GPU."
    ),
    "known-defect": warning(
        "{what} has a known defect: {symptom}.",
        "{fix}",
        "These versions are in gpurack's table of defects (gpurack/spec/known_defects.py).",
        "Pin another version.",
    ),
    "driver-older-than-image": warning(
        "{engine} {version} needs NVIDIA's driver {oldest} or newer, the host has {driver}. It runs only where its "
        "image has a compatibility library that supports this driver and GPU.",
        "{hint}",
        "A CUDA of a newer major version runs with an older driver only by NVIDIA's forward compatibility, which "
        "GeForce and TITAN do not have.",
        "Update the driver, or choose an older version.",
    ),
    "no-image-for-arm64": Code(
        "{engine} publishes no image of version {version} for this kind of arm64 host.",
        "{hint}",
        "An image of another architecture ends with `exec format error`.",
        "Choose another engine, or name an `image` for arm64.",
    ),
    "gpu-incompatible": Code(
        "{what}",
        "",
        "The engine has no image for this GPU, or its images need a newer GPU or driver.",
        "Choose another GPU, version or engine.",
    ),
    "model-too-large": Code(
        "{what}", "", "The model needs more memory than its share.", "Use more GPUs, less context or a smaller model."
    ),
}

LOCK: Mapping[str, Code] = {
    "no-lock": Code(
        "the lock file does not exist yet.",
        "Run `gpurack lock {inventory}` to write it.",
        "The command compares with the lock.",
    ),
    "locked-host-unknown": Code(
        "is in the lock but not in the inventory.",
        "Run `gpurack lock {inventory}` to remove it.",
        "A host was removed from the inventory or renamed.",
    ),
    "lock-not-compared": Code(
        "{what}",
        "",
        "A user's Docker, or a process that reads weights, did not answer in time.",
        "Find out what hangs on the host, and run again.",
    ),
    "invalid-lock": Code(
        "{what}", "Write it again with `gpurack lock {inventory}`.", "The lock was edited, or merged with conflicts."
    ),
    "invalid-lock-fact": Code(
        '"{value}" is not a version, a digest, a commit or a fingerprint.',
        "",
        "It is one ASCII word.",
        "Write the lock again.",
    ),
    "invalid-lock-path": Code(
        "contains unprintable characters.", "", "It could mislead a reader.", "Write the lock again."
    ),
    "lock-contradiction": Code(
        "{lock} has {what}",
        "To follow the inventory, move the pin: {command}",
        "Inventory and lock name different versions, and the lock is what a run installs.",
    ),
}

WARNINGS: Mapping[str, Code] = {
    "same-endpoint": warning(
        "has the same address and port as {other} ({endpoint}).",
        "If both names mean one server, keep one of them.",
        "Two names for one server would each remove the models of the other.",
    ),
    "nothing-to-connect-to": warning(
        "connects to no enabled model that it can reach.",
        "Check `enabled`, and `bind` of models on other hosts.",
        "The service starts without any model.",
    ),
    "token-over-http": warning(
        "is http://, so `hf_token` is sent unencrypted.", "Use https://.", "Anyone on the network can read the token."
    ),
    "legacy-engine": warning("{engine} is legacy: {why}", "", "Upstream no longer maintains it.", "Plan the move."),
    "weights-without-source": warning(
        "{which} is a path on the host, so a rebuild cannot restore it.",
        "Add a source: `hf`, `modelscope`, `url` or `copy`.",
        "Nothing in the inventory says where the file came from.",
    ),
    "weights-follow-branch": warning(
        "{which} follows a branch.", "Give a revision to get the same files again.", "A branch changes over time."
    ),
    "floating-image": warning(
        "image {image} floats: its tag can name another image tomorrow.",
        "Name a version or a digest.",
        "A rebuild of the host could install another image.",
    ),
    "vram-not-enforced": warning(
        "{engine} cannot enforce `vram`: {vram} is reserved in the plan only.",
        "",
        "The engine takes what it needs, so that its neighbours may run out of memory.",
        "Leave room on the GPU, or use an engine that limits itself (docs/engines.md).",
    ),
    "secret-in-plain-text": warning(
        "{where} is a secret in plain text, in the inventory and in {shown}.",
        "{hint}",
        "Inventories are committed, and containers' settings are readable on the host.",
        "Refer to the secret, or put it into a file on the host.",
    ),
    "password-in-inventory": warning(
        "`{field}` is a password in plain text in {file}.",
        'Use a key (`ssh_key`, or the ssh agent), or in an inventory in Python `getpass()` or `os.environ["NAME"]`.',
        "Inventories are committed and shared.",
    ),
    "port-of-ssh": warning(
        "port 22 is the host's own for ssh.",
        "Choose another, for example 8000.",
        "sshd uses the port, so the container cannot start. If the model starts first, nobody can log in.",
    ),
    "unknown-log-driver": warning(
        'Docker has no log driver "{name}".',
        "{hint}",
        "dockerd does not start a container with it, unless a plugin has this name.",
        "Use `local`, `json-file` or `journald`.",
    ),
    "daemon-key-with-underscore": warning(
        '"{key}" is not a key of daemon.json.',
        "Write `{right}`.",
        "dockerd refuses a file with unknown keys, so a run would fail.",
    ),
    "prompts-in-log": warning(
        "{settings}: what clients ask is written to its log on the host.", "", "Prompts may be private.", "Remove it."
    ),
    "first-account-open": warning(
        "until its database has an account, {what}", "", "Its first account is the administrator.", "Give it in `keys`."
    ),
    "own-database": warning(
        "{setting}: gpurack does not inspect this database. While it has no account, {what}",
        "",
        "Its first account is the administrator.",
        "Make sure that the account exists before others reach the host.",
    ),
    "source-not-verified": warning(
        "image.build.git {git} can be changed on its way by anyone on the network, and root builds it.",
        "Use https:// or ssh://, or give the full commit as revision.",
        "http:// and git:// prove neither server nor content.",
    ),
    "no-key": warning(
        "no key, open to anyone who can reach the host.",
        "{hint}",
        "`api_key: null` with an open `bind`.",
        "Set `api_key`; bind an engine without keys to loopback, behind a gateway (litellm).",
    ),
    "key-guards-part": warning(
        "its key guards /v1 only: {routes} and more stay open to anyone who can reach the host.",
        "Bind it to loopback behind a gateway (litellm).",
        "The engine checks the key on some of its routes only.",
    ),
    "flag-perhaps-removed": warning(
        "args.{flag}: {engine} {since} no longer has --{normal}.",
        "{hint}",
        "The version may end at start.",
        "Replace it.",
    ),
    "flag-perhaps-unknown": warning(
        "{field}: {engine} {version} has no {flag}{listed}.",
        "{hint}",
        "gpurack's list is of another version.",
        "Check the name.",
    ),
    "hardware-unknown": warning(
        "is missing, so GPUs cannot be checked.", 'Write {{"A30": 4}}.', "Without it, a plan knows no GPUs."
    ),
    "unknown-gpu": warning(
        'unknown GPU "{name}".',
        "{hint} Its memory is not checked.",
        "gpurack knows the memory of common GPUs.",
        SPELLING,
    ),
    "gpus-not-given": warning(
        "is missing, so it runs on the CPU.", "Write [] to confirm.", "The host has GPUs, and the model names none."
    ),
    "job-without-gpu": warning(
        "{what}", "A run refuses it, unless it is done.", "Models hold the GPUs that the job needs."
    ),
    "memory-tight": warning("{what}", "", "The estimate fits with little room.", "Lower `context`, or raise `vram`."),
    "host-not-in-lock": warning(
        "is not in the lock.", "Run `gpurack lock` to pin it.", "The host runs by the inventory alone."
    ),
    "entry-not-in-lock": warning(
        "is not in the lock yet.", "Run `gpurack lock` to pin it.", "The entry runs by the inventory alone."
    ),
}

INVENTORY: Mapping[str, Code] = {
    **SHAPE,
    **FILES,
    **HOSTS,
    **SECRETS,
    **IMAGES,
    **WEIGHTS,
    **ENTRIES,
    **GPUS,
    **LOCK,
    **WARNINGS,
}
CODES: Mapping[str, Code] = {**INVENTORY, **LIVE}
