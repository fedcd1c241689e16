# One look at a host: everything that gpurack's plan needs, read only. Runs as root, from standard input of `sh -s`.
# gpurack puts variables in front: IMAGES and WEIGHTS (one item a line), SEEN (stamp|path of weights whose headers it
# remembers) and READER (weights_header.py). Output: sections headed by "@@ name"; gpurack/state/parse.py reads them.
# POSIX sh and coreutils only: a fresh host has neither python3 nor curl.

section() { printf '@@ %s\n' "$1"; }
have() { command -v "$1" >/dev/null 2>&1; }
encoded() { base64 "$1" 2>/dev/null | tr -d '\n'; }

# Names, sizes and times of the files that weights consist of, as one word: the same word, the same weights.
stamp() {
	case $1 in
	*-?????-of-?????.gguf) set -- "${1%-?????-of-?????.gguf}"-?????-of-"${1##*-of-}" ;;
	esac
	if [ -d "$1" ]; then
		find -L "$1" -maxdepth 1 -type f '(' -name '*.safetensors' -o -name '*.json' ')' -exec stat -L -c '%n %s %Y' {} +
	else
		stat -L -c '%n %s %Y' "$@"
	fi | sort | cksum | tr ' ' -
}

look_host() {
	section os
	cat /etc/os-release
	section machine
	echo "arch $(dpkg --print-architecture 2>/dev/null || uname -m)"
	echo "init $(cat /proc/1/comm)"
	echo "address $(ip -4 -o route get 192.0.2.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')"
	for tool in python3 curl; do have "$tool" && echo "tool $tool"; done
	[ -e /run/gpurack/lock ] && ! flock -n /run/gpurack/lock true &&
		echo "busy $(cat /run/gpurack/busy 2>/dev/null || echo 'it does not say which')"
	section packages
	dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\n' 2>/dev/null |
		grep -E '\|(docker|containerd|nvidia-container|libnvidia-container|podman-docker|python3\||curl\||ca-certificates\|)'
	section audit
	dpkg --audit 2>/dev/null | grep -c '^ ' || :
	section sources
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
		[ -f "$file" ] && echo "$file $(encoded "$file")"
	done
	section units
	for unit in docker.service containerd.service gpurack.service nvidia-cdi-refresh.service; do
		echo "$unit $(systemctl show "$unit" -p LoadState,ActiveState,UnitFileState 2>/dev/null | tr '\n' ' ')"
	done
	echo "flags $(systemctl show docker.service -p ExecStart --value 2>/dev/null | sed -n 's/.*argv\[\]=\([^;]*\);.*/\1/p')"
	section files
	for file in /etc/docker/daemon.json /etc/apt/keyrings/gpurack-*.asc /etc/gpurack/compose.yaml \
		/etc/systemd/system/gpurack.service /usr/local/lib/gpurack/*.py /run/gpurack/docker-restart; do
		[ -e "$file" ] && echo "$file $(stat -c '%a %u %g' "$file") $(encoded "$file")"
	done
	section secrets
	find /etc/gpurack/secrets -type f -exec stat -c '%n %a %u' {} + 2>/dev/null
	section weights
	printf '%s\n' "$WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && echo "$(stat -L -c '%s %F' "$path" 2>/dev/null || echo '- missing')|$path"
	done
	section stamps
	printf '%s\n' "$WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && [ -e "$path" ] || continue
		seen="$(stamp "$path")|$path"
		printf '%s\n' "$seen"
		printf '%s\n' "$SEEN" | grep -qxF -e "$seen" || printf '%s\n' "$path" >&3
	done 3>"$work/unseen"
	section headers
	[ -s "$work/unseen" ] && have python3 && python3 -c "$READER" <"$work/unseen"
	section ports
	ss -Hltnp 2>/dev/null | LC_ALL=C tr -d '\200-\377' >"$work/ports"
	cat "$work/ports"
	section owners
	# shellcheck disable=SC2046 # several words on purpose
	stat -c '%n %U' $(grep -o 'pid=[0-9]*' "$work/ports" | sort -u | sed 's|pid=|/proc/|') 2>/dev/null
	section disk
	df -B1 --output=avail,target /var/lib /etc 2>/dev/null | tail -n +2
}

look_gpus() {
	section driver
	cat /proc/driver/nvidia/version 2>/dev/null
	section pci
	for card in /proc/driver/nvidia/gpus/*/information; do
		[ -e "$card" ] && echo "$card|$(sed -n 's/^GPU UUID:[[:space:]]*//p' "$card")|$(sed -n 's/^Model:[[:space:]]*//p' "$card")"
	done
	if have nvidia-smi; then
		fields=index,uuid,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current,pci.bus_id
		section gpus
		# A lost card fails the whole query (exit 15); then the others are asked one by one, by PCI address.
		if answer=$(nvidia-smi --query-gpu=$fields --format=csv,noheader,nounits 2>&1); then
			printf '%s\n' "$answer"
		else
			printf 'exit %s|%s\n' "$?" "$(printf '%s' "$answer" | tr '\n' ' ')"
			for card in /proc/driver/nvidia/gpus/*; do
				[ -e "$card" ] && nvidia-smi -i "${card##*/}" --query-gpu=$fields --format=csv,noheader,nounits 2>/dev/null | grep GPU-
			done
		fi
		section processes
		nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,noheader,nounits 2>/dev/null | grep ^GPU- |
			while IFS=, read -r uuid pid name used; do
				pid=${pid# }
				# a container's cgroup ends in docker-<64 hex digits>.scope or docker/<64 hex digits>
				container=$(sed -n 's/.*docker[-/]\([0-9a-f]\{64\}\).*/\1/p' "/proc/$pid/cgroup" 2>/dev/null | head -n 1)
				echo "$uuid,$pid,$name,$used,$(ps -o user= -p "$pid" 2>/dev/null),$container"
			done
	fi
	if have nvidia-ctk; then
		section cdi
		nvidia-ctk cdi list 2>/dev/null
	fi
}

look_docker() {
	have docker || return 0
	section docker
	docker info --format '{{json .}}' 2>/dev/null
	section compose
	docker compose version --short 2>/dev/null
	section containers
	ids=$(docker ps -aq --no-trunc 2>/dev/null)
	[ -z "$ids" ] || docker inspect --format '{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Image}},"state":{{json .State}},"labels":{{json .Config.Labels}},"ports":{{json .HostConfig.PortBindings}},"restarts":{{json .RestartCount}},"created":{{json .Created}}}' $ids 2>/dev/null
	section images
	printf '%s\n' "$IMAGES" | while IFS= read -r image; do
		[ -n "$image" ] && echo "$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || echo -)|$image"
	done
	have curl || return 0
	# Each model of ours is asked over its published port; a model that hangs is not "no change".
	docker ps --filter label=gpurack.model --filter status=running --format '{{.Names}}|{{.Label "gpurack.probe"}}' | {
		while IFS='|' read -r name url; do
			(
				key=/etc/gpurack/secrets/$name/api_key
				# printf is a builtin: the key is in no process's arguments
				body=$({ [ -f "$key" ] && printf 'header = "Authorization: Bearer %s"\n' "$(cat "$key")"; } |
					curl -K - -sS --noproxy '*' --max-time 5 -w '\n%{http_code}' "$url" 2>&1 | tr -d '\r' | tail -c 4000)
				printf '@@ probe %s\n%s\n' "$name" "$(printf '%s' "$body" | base64 | tr -d '\n')" >"$work/probe.$name"
			) &
		done
		wait
	}
	cat "$work"/probe.* 2>/dev/null
}

main() {
	export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
	work=$(mktemp -d) || exit 1
	trap 'rm -rf "$work"' EXIT
	# On a full disk the files come out short, so each part says at its end that it is whole.
	{ look_docker; section whole; } >"$work/docker" 2>/dev/null &
	{ look_gpus; section whole; } >"$work/gpus" 2>/dev/null &
	{ look_host; section whole; } >"$work/host" 2>/dev/null
	wait
	cat "$work/host" "$work/gpus" "$work/docker"
	[ "$(cat "$work/host" "$work/gpus" "$work/docker" | grep -c '^@@ whole$')" = 3 ] && section end
}
main </dev/null
