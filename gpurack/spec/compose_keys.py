"""The keys of a Compose service, for `compose` of an entry.

Source: compose-spec/compose-spec, schema/compose-spec.json, definition `service`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gpurack.spec.problems import Problem

_SERVICE = """
annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name cpu_count
cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec depends_on deploy
develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file environment
expose extends external_links extra_hosts gpus group_add healthcheck hostname image init ipc isolation label_file
labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit models network_mode networks
oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_stop privileged profiles provider
pull_policy pull_refresh_after read_only restart runtime scale secrets security_opt shm_size stdin_open
stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode uts volumes
volumes_from working_dir
"""
SERVICE = frozenset(_SERVICE.split())
NO_EFFECT = {
    "profiles": "gpurack starts every enabled entry. Use `enabled`.",
    "extends": "gpurack writes a compose file of its own. Write the settings into the entry, or into `defaults`.",
    "scale": "A container has the name and the port of its entry, so there is only one. Write several entries.",
}
"""Keys that Compose knows, but that cannot mean anything in gpurack's compose file → what to write."""


def unknown_keys(compose: Mapping[str, Any]) -> Iterator[Problem]:
    """Errors of keys that Compose does not know. It would refuse the file of all models."""
    for key in compose:
        if key not in SERVICE and not key.startswith("x-"):
            yield Problem.unknown("unknown-compose-key", key, sorted(SERVICE), path=f"compose.{key}")


def keys_without_effect(compose: Mapping[str, Any]) -> Iterator[Problem]:
    """Problems of keys that have no meaning in gpurack's compose file."""
    for key, hint in NO_EFFECT.items():
        if compose.get(key) is not None:
            yield Problem.of("compose-key-refused", path=f"compose.{key}", key=key, hint=hint)
