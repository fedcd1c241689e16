# One look at a host: everything that gpurack's plan needs, read only. Runs as root, from standard input of `sh -s`.
# gpurack puts variables in front: USERS (whose rootless Docker is wanted), IMAGES and WEIGHTS (one item a line), READERS
# (user|path of weights that only that user's Docker wants), SEEN (stamp|path of weights whose headers it remembers),
# READER (weights_header.py), COUNTERS (model|path|name of a counter), NAMES (to look up), VOLUMES (user|volume of an Open
# WebUI without a first account) and UPSTREAMS (service|number|file of a key|url). Output: sections headed by "@@ name", which
# gpurack/state/parse.py reads.
# POSIX sh and coreutils only: a fresh host has neither python3 nor curl.

section() { printf '@@ %s\n' "$1"; }
have() { command -v "$1" >/dev/null 2>&1; }
encoded() { base64 "$1" 2>/dev/null | tr -d '\n'; }

# Names, sizes and times of the files that weights consist of, as one word: the same word, the same weights. After the
# path comes what makes a command a user's.
stamp() {
	one=$1
	shift
	if "$@" test -d "$one"; then
		"$@" find -L "$one" -maxdepth 1 -type f '(' -name '*.safetensors' -o -name '*.json' ')' -exec stat -L -c '%n %s %Y' {} +
	else
		case $one in
		*-?????-of-?????.gguf) set -- "$@" stat -L -c '%n %s %Y' "${one%-?????-of-?????.gguf}"-?????-of-"${one##*-of-}" ;;
		*) set -- "$@" stat -L -c '%n %s %Y' "$one" ;;
		esac
		"$@"
	fi | sort | cksum | tr ' ' -
}

# Who but root may change what a path means: type, mode, owner and group of each folder, link or file on it that others
# may change (as in safe_paths.py). None of their names are said: links lead to names of anybody's making.
owners_of() {
	for way in "$1" "$(readlink -f "$1")"; do
		while [ -n "$way" ]; do
			set -- "$@" "$way"
			way=${way%/*}
		done
	done
	find "$@" -maxdepth 0 '(' ! -uid 0 -o ! -type l -perm /022 '(' ! -type d -o ! -perm -1000 ')' ')' -printf '%y %m %u|%g\n' 2>/dev/null |
		sort -u
}

look_host() {
	section os
	cat /etc/os-release
	section machine
	echo "arch $(dpkg --print-architecture 2>/dev/null || uname -m)"
	echo "init $(cat /proc/1/comm)"
	echo "now $(date -u +%Y-%m-%dT%H:%M:%SZ)"
	# That of the default route: addresses for documentation are in no other route (RFC 5737, RFC 3849).
	echo "address $({ ip -4 -o route get 192.0.2.1; ip -6 -o route get 2001:db8::1; } 2>/dev/null |
		sed -n 's/.* src \([0-9a-f.:]*\).*/\1/p' | tr '\n' ' ')"
	echo "addresses $(ip -o address show scope global 2>/dev/null | sed -n -e '/^[0-9]*: docker0 /d' \
		-e '/^[0-9]*: br-[0-9a-f]* /d' -e 's|^[0-9]*: [^ ]* *inet6* \([0-9a-f.:]*\).*|\1|p' | tr '\n' ' ')"
	for tool in python3 curl git; do have "$tool" && echo "tool $tool"; done
	ls /usr/lib*/docker/cli-plugins/docker-buildx >/dev/null 2>&1 && echo "tool buildx"
	[ -e /run/gpurack/lock ] && ! flock -n /run/gpurack/lock true &&
		echo "busy $(cat /run/gpurack/busy 2>/dev/null || echo 'it does not say which')"
	# yum may be yum 3, or a link to dnf 4; dnf may be dnf 5
	for manager in dnf yum; do
		have "$manager" || continue
		case $(readlink -f "$(command -v "$manager")") in
		*/dnf5*) echo "manager $manager dnf5" ;;
		*/dnf*) echo "manager $manager dnf4" ;;
		*) echo "manager $manager yum3" ;;
		esac
		break
	done
	section rpms
	rpm -qa --qf '%{NAME}|%{EPOCH}|%{VERSION}-%{RELEASE}|%{ARCH}|%{INSTALLTIME}\n' 'docker*' 'containerd*' runc moby-engine shadow-utils acl \
		podman-docker '*nvidia*' 'cuda-drivers*' '*versionlock*' ca-certificates 2>/dev/null
	section packages
	dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\n' 2>/dev/null |
		grep -E '\|(docker|containerd|runc\||[^|]*nvidia|cuda-drivers|podman-docker|python3\||curl\||ca-certificates\||uidmap\||slirp4netns\||rootlesskit\||dbus-user-session\||acl\|)'
	section audit
	dpkg --audit 2>/dev/null | grep -c '^ ' || :
	section units
	for unit in docker.service containerd.service gpurack.service nvidia-cdi-refresh.service \
		snap.docker.dockerd.service firewalld.service; do
		echo "$unit $(systemctl show "$unit" -p LoadState,ActiveState,UnitFileState 2>/dev/null | tr '\n' ' ')"
	done
	echo "flags $(systemctl show docker.service -p ExecStart --value 2>/dev/null | sed -n 's/.*argv\[\]=\([^;]*\);.*/\1/p')"
	section files
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources /etc/yum.repos.d/*.repo \
		/etc/docker/daemon.json /etc/apt/keyrings/gpurack-*.asc /etc/pki/rpm-gpg/gpurack-*.asc \
		/etc/dnf/plugins/versionlock.list /etc/dnf/versionlock.toml /etc/yum/pluginconf.d/versionlock.list \
		/var/lib/gpurack/rpm-transaction /etc/gpurack/compose.yaml /var/lib/gpurack/jobs/*.json \
		/etc/apt/apt.conf.d/80gpurack-proxy /etc/dnf/dnf.conf /etc/yum.conf /etc/systemd/system/docker.service.d/gpurack-proxy.conf /var/lib/gpurack/trusted /var/lib/gpurack/driver-held \
		/usr/local/share/ca-certificates/gpurack-*.crt /etc/pki/ca-trust/source/anchors/gpurack-*.crt \
		/var/lib/gpurack/users/*/compose.yaml /etc/systemd/system/gpurack.service /usr/local/lib/gpurack/* /usr/local/libexec/gpurack/* \
		/run/gpurack/docker-restart /etc/nvidia-container-runtime/config.toml \
		/etc/tmpfiles.d/gpurack.conf /etc/sysctl.d/60-gpurack.conf /etc/apparmor.d/gpurack-rootlesskit; do
		[ -f "$file" ] && echo "$file $(stat -c '%a %u %g' "$file") $(encoded "$file")"
	done
	section secrets
	find /etc/gpurack/secrets /var/lib/gpurack/users/*/secrets -type f -exec stat -c '%n %a %u' {} + 2>/dev/null
	section exposed
	find /var/lib/gpurack/sha256 -type f -perm /077 2>/dev/null
	section owned
	printf '%s\n' "$ALL_WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && owners_of "$path" | while IFS= read -r owner; do echo "$owner|$path"; done
	done
	section weights
	printf '%s\n' "$WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && echo "$(stat -L -c '%s %F' "$path" 2>/dev/null || echo '- missing')|$path"
	done
	# Where SELinux is enforced, Docker may confine containers by labels.
	if [ "$(cat /sys/fs/selinux/enforce 2>/dev/null)" = 1 ]; then
		section labels
		printf '%s\n' "$ALL_WEIGHTS" | while IFS= read -r path; do
			[ -n "$path" ] && [ -e "$path" ] && echo "$(stat -L -c %C "$path" 2>/dev/null)|$path"
		done
	fi
	section stamps
	printf '%s\n' "$WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && [ -e "$path" ] || continue
		seen="$(stamp "$path")|$path"
		printf '%s\n' "$seen"
		printf '%s\n' "$SEEN" | grep -qxF -e "$seen" || printf '%s\n' "$path" >&3
	done 3>"$work/unseen"
	section headers
	[ -s "$work/unseen" ] && have python3 && python3 -c "$READER" <"$work/unseen"
	# What earlier runs found weights to be (hashes.py), and whether they still are as they were then.
	section commits
	printf '%s\n' "$WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && [ -f "$path.json" ] && [ ! -L "$path.json" ] && echo "$(sed -n 's/^ "commit": "\([0-9a-f]*\)".*/\1/p' "$path.json")|$path"
	done
	section hashes
	cat /var/lib/gpurack/sha256 2>/dev/null
	section stamped
	cut -d ' ' -f 4- /var/lib/gpurack/sha256 2>/dev/null | tr '\n' '\0' | xargs -0 -r stat -L -c '%s %.9Y %n' 2>/dev/null
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
		fields=index,uuid,name,memory.total,memory.used,driver_version,compute_cap,mig.mode.current,pci.bus_id,utilization.gpu
		section gpus
		# A lost card fails the whole query (exit 15); then the others are asked one by one, by PCI address.
		if answer=$(nvidia-smi --query-gpu=$fields --format=csv,noheader,nounits 2>&1); then
			printf '%s\n' "$answer"
		else
			printf 'exit %s|%s\n' "$?" "$(printf '%s' "$answer" | tr '\n' ' ')"
			for card in /proc/driver/nvidia/gpus/*; do
				[ -e "$card" ] && nvidia-smi -i "${card##*/}" --query-gpu=$fields --format=csv,noheader,nounits 2>/dev/null | grep GPU-
			done
			section xids
			dmesg --time-format iso 2>/dev/null | grep -F 'NVRM: Xid' | tail -n 100
		fi
		section processes
		nvidia-smi --query-compute-apps=gpu_uuid,pid,process_name,used_memory --format=csv,noheader,nounits 2>/dev/null | grep ^GPU- |
			while IFS=, read -r uuid pid name used; do
				echo "$uuid,${pid# },$name,$used,$(holder "${pid# }")"
			done
	fi
	if have nvidia-ctk; then
		section cdi
		nvidia-ctk cdi list 2>/dev/null
	fi
}

# A process's user and container, whose cgroup ends in its id: docker-<64 hex digits>.scope, docker/…, runc-….scope.
holder() {
	container=$(sed -n 's/.*[-/]\([0-9a-f]\{64\}\).*/\1/p' "/proc/$1/cgroup" 2>/dev/null | head -n 1)
	echo "$(ps -o user= -p "$1" 2>/dev/null),$container"
}

# AMD's cards and who computes on them, by sysfs, which needs no tools: the nodes of the kernel's compute driver (KFD).
look_amd() {
	[ -e /sys/class/kfd/kfd ] || return 0
	section amd
	echo "kfd $(stat -c %g /dev/kfd)"
	for node in /sys/class/kfd/kfd/topology/nodes/*; do
		id=$(cat "$node/gpu_id")
		[ "${id:-0}" != 0 ] || continue # a CPU
		minor=$(sed -n 's/^drm_render_minor //p' "$node/properties")
		device=/sys/class/drm/renderD$minor/device
		printf 'card gpu_id %s|gid %s|total %s|used %s|busy %s|name %s|%s\n' "$id" "$(stat -c %g "/dev/dri/renderD$minor")" \
			"$(cat "$device/mem_info_vram_total")" "$(cat "$device/mem_info_vram_used")" "$(cat "$device/gpu_busy_percent")" \
			"$(amd_name "$device")" "$(tr '\n' '|' <"$node/properties")"
	done
	for file in /sys/class/kfd/kfd/proc/[0-9]*/vram_*; do
		used=$(cat "$file")
		[ "${used:-0}" != 0 ] || continue
		pid=${file%/*}
		pid=${pid##*/}
		echo "process ${file##*_},$pid,$(cat "/proc/$pid/comm"),$used,$(holder "$pid")"
	done
} 2>/dev/null

# The name that the card carries (Instinct), or that libdrm has for its ids ("744C, C8, AMD Radeon RX 7900 XTX").
amd_name() {
	name=$(cat "$1/product_name")
	ids=$(cat "$1/device" "$1/revision" | sed 's/^0x//' | tr 'a-f\n' 'A-F,' | sed 's/,/,[[:space:]]*/g')
	[ -n "$name" ] || name=$(sed -n "s/^$ids//p" /usr/share/libdrm/amdgpu.ids /opt/amdgpu/share/libdrm/amdgpu.ids | head -n 1)
	echo "$name"
}

# ask KEY_FILE URL: what a model answers. printf is a builtin: the key is in no process's arguments.
ask() {
	key=$1
	shift
	{ [ -f "$key" ] && printf 'header = "Authorization: Bearer %s"\n' "$(sed 's/["\\]/\\&/g' "$key")"; } |
		curl -K - -sS --proto =http --noproxy '*' --max-time 5 "$@" 2>&1
}

# What services connect to on other hosts. One that is down costs two seconds, beside all else.
look_upstreams() {
	section names
	printf '%s\n' "$NAMES" | while IFS= read -r name; do
		[ -n "$name" ] && echo "$(getent ahostsv4 "$name" | sed -n '1s/ .*//p')|$name"
	done
	have curl || return 0
	section upstreams
	printf '%s\n' "$UPSTREAMS" | {
		while IFS='|' read -r service number key url; do
			[ -n "$url" ] || continue
			{
				said=$(ask "$key" --connect-timeout 2 -o /dev/null -w '|%{http_code}' "$url" | tr '\n' ' ')
				echo "$service|$number|${said##*|}|${said%|*}"
			} &
		done
		wait
	}
}

# What only rootless Docker needs to know of the host.
look_rootless() {
	[ -n "$users" ] || return 0
	section rootless
	for name in kernel/unprivileged_userns_clone user/max_user_namespaces kernel/apparmor_restrict_unprivileged_userns; do
		[ -e "/proc/sys/$name" ] && echo "sysctl $name $(cat "/proc/sys/$name")"
	done
	grep -lqs rootlesskit /etc/apparmor.d/* && echo "apparmor yes"
	for file in /etc/subuid /etc/subgid; do
		sed "s|^|${file##*/} |" "$file"
	done
	# A range of subordinate ids must not hold the id of anybody.
	getent passwd | awk -F: '$3 >= 65536 { print "uid", $3 }'
	for folder in /etc/cdi /run/cdi; do [ -d "$folder" ] && echo "folder $folder"; done
}

# A user's things are asked for as that user: root follows no links out of a home, nor runs what a configuration names.
as_user() {
	timeout -k 1 20 setpriv --reuid "$uid" --regid "$gid" --init-groups env -i HOME="$home" USER="$user" PATH="$PATH" \
		XDG_RUNTIME_DIR="$runtime" DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus" DOCKER_HOST="unix://$runtime/docker.sock" "$@"
}

# In a subshell: from here on `docker` is the user's.
look_user() {
	user=$1
	project=/var/lib/gpurack/users/$user
	section "user $user"
	account=$(getent passwd "$user") || return 0
	uid=$(printf '%s' "$account" | cut -d: -f3)
	gid=$(printf '%s' "$account" | cut -d: -f4)
	home=$(printf '%s' "$account" | cut -d: -f6)
	runtime=/run/user/$uid
	docker() { as_user docker "$@"; }
	echo "account $uid $gid $home"
	[ -e "/var/lib/systemd/linger/$user" ] && echo "linger yes"
	[ -S "$runtime/bus" ] &&
		echo "unit $(as_user systemctl --user show docker.service -p LoadState,ActiveState,UnitFileState | tr '\n' ' ')"
	echo "folder $(stat -c '%a %u' "$project")"
	echo "weights $(getfacl -cpn "$USERS_WEIGHTS/$user" | tr '\n' ' ')"
	# rootlesskit shows its child the entries of /etc and /run that were there when it began
	child=$(as_user cat "$runtime/dockerd-rootless/child_pid" | tr -dc 0-9)
	for folder in /etc/cdi /run/cdi; do
		[ -n "$child" ] && [ -d "/proc/$child/root$folder" ] && [ ! -L "/proc/$child/root$folder" ] && echo "sees $folder"
	done
	printf '%s\n' "$ALL_WEIGHTS" | while IFS= read -r path; do
		[ -e "$path" ] && ! as_user test -r "$path" && echo "unreadable $path"
	done
	# What others than root may lead elsewhere: it is this user who follows. No line of the last begins a section.
	while IFS='|' read -r reader path; do
		[ "$reader" = "$user" ] || continue
		size=$(as_user stat -L -c %s "$path" | tr -dc 0-9)
		echo "${size:--}|$path" >&3
		[ -n "$size" ] || continue
		seen="$(stamp "$path" as_user)|$path"
		printf '%s\n' "$seen" >&4
		printf '%s\n' "$SEEN" | grep -qxF -e "$seen" || printf '%s\n' "$path" >&5
	done <"$work/readers" 3>"$work/weights.$user" 4>"$work/stamps.$user" 5>"$work/unseen.$user"
	section "weights $user"
	cat "$work/weights.$user"
	section "stamps $user"
	cat "$work/stamps.$user"
	section "headers $user"
	[ -s "$work/unseen.$user" ] && have python3 &&
		as_user python3 -c "$READER" <"$work/unseen.$user" | head -c 1000000 | grep '^{'
	section files
	for file in .config/docker/daemon.json .config/systemd/user/docker.service.d/gpurack.conf \
		.config/nvidia-container-runtime/config.toml; do
		as_user test -f "$home/$file" &&
			echo "$home/$file $(as_user stat -L -c '%a %u %g' "$home/$file") $(as_user base64 -w 0 "$home/$file")"
	done
	owed=$runtime/gpurack-docker-restart
	as_user test -f "$owed" && echo "$owed $(as_user stat -c '%a %u %g' "$owed") $(as_user base64 -w 0 "$owed")"
	as_user test -S "$runtime/docker.sock" && look_docker
}

look_docker() {
	have docker || return 0
	section "docker${user:+ $user}"
	docker info --format '{{json .}}' 2>/dev/null | grep '^{'
	section compose
	docker compose version --short 2>/dev/null
	section "containers${user:+ $user}"
	ids=$(docker ps -aq --no-trunc 2>/dev/null)
	[ -z "$ids" ] || docker inspect --format '{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Image}},"state":{{json .State}},"labels":{{json .Config.Labels}},"ports":{{json .HostConfig.PortBindings}},"restarts":{{json .RestartCount}},"created":{{json .Created}}}' $ids 2>/dev/null | grep '^{' >"$work/containers.$user"
	cat "$work/containers.$user" 2>/dev/null
	section digests
	used=$(sed -n 's/.*"image":"\(sha256:[0-9a-f]*\)","state".*/\1/p' "$work/containers.$user" 2>/dev/null | sort -u)
	[ -z "$used" ] || docker image inspect --format '{{.Id}}|{{json .RepoDigests}}' $used 2>/dev/null
	section "images${user:+ $user}"
	printf '%s\n' "$IMAGES" | while IFS= read -r image; do
		[ -n "$image" ] && echo "$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || echo -)|$image"
	done
	# Has the database of an Open WebUI an account? Passwords are in it as bcrypt's sums, or still in the log beside it.
	section "accounts${user:+ $user}"
	printf '%s\n' "$VOLUMES" | while IFS='|' read -r whose volume; do
		[ -n "$volume" ] && [ "$whose" = "$user" ] || continue
		place=$(docker volume inspect --format '{{.Mountpoint}}' "$volume" 2>/dev/null) || continue
		for file in "$place/webui.db" "$place/webui.db-wal"; do
			${user:+as_user} test -f "$file" && ! ${user:+as_user} test -L "$file" &&
				${user:+as_user} timeout 5 grep -aqE '\$2[aby]\$[0-9]{2}\$' "$file" && echo "$volume" && break
		done
	done
	have curl || return 0
	# Each model of ours is asked over its published port; a model that hangs is not "no change", nor is one that restarts
	# for ever, which was up when it was looked at and is not now.
	docker ps --filter label=gpurack.model --filter status=running --filter status=restarting --format '{{.Names}}|{{.Label "gpurack.probe"}}' | {
		while IFS='|' read -r name url; do
			case $name in *[!A-Za-z0-9_.-]*) continue ;; esac # it becomes part of paths
			(
				key=$project/secrets/$name/api_key
				body=$(ask "$key" -w '\n%{http_code}' "$url" | tr -d '\r' | tail -c 100000)
				printf '@@ probe %s\n%s\n' "$name" "$(printf '%s' "$body" | base64 | tr -d '\n')" >"$work/probe.$user.$name"
				printf '%s\n' "$COUNTERS" | while IFS='|' read -r model path counter; do
					[ "$model" = "$name" ] || continue
					printf '@@ counter %s\n' "$name" >>"$work/probe.$user.$name"
					ask "$key" "$(printf '%s' "$url" | cut -d/ -f1-3)$path" | grep "^${counter}[{ ]" >>"$work/probe.$user.$name"
				done
			) &
		done
		wait
	}
	cat "$work/probe.$user".* 2>/dev/null
}

main() {
	export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
	work=$(mktemp -d) || exit 1
	trap 'rm -rf "$work"' EXIT
	mkdir "$work/parts"
	user='' project=/etc/gpurack
	users=$({ printf '%s\n' "$USERS"; ls /var/lib/gpurack/users 2>/dev/null; } | grep . | sort -u)
	# What others than root may change, and only one user's Docker wants, is looked at as that user.
	printf '%s\n' "$READERS" | while IFS='|' read -r reader path; do
		[ -n "$path" ] && owners_of "$path" | grep -q . && echo "$reader|$path"
	done >"$work/readers"
	ALL_WEIGHTS=$WEIGHTS WEIGHTS=$(printf '%s\n' "$WEIGHTS" | grep -vxF -e "$(cut -d '|' -f 2- "$work/readers")")
	# On a full disk the files come out short, so each part says at its end that it is whole.
	{ look_host; look_rootless; section whole; } >"$work/parts/0" 2>/dev/null &
	{ look_gpus; look_amd; section whole; } >"$work/parts/1" 2>/dev/null &
	{ look_docker; section whole; } >"$work/parts/2" 2>/dev/null &
	{ look_upstreams; section whole; } >"$work/parts/3" 2>/dev/null &
	parts=4
	for one in $users; do
		{ look_user "$one"; section whole; } >"$work/parts/$parts" 2>/dev/null &
		parts=$((parts + 1))
	done
	wait
	cat "$work/parts/"*
	[ "$(cat "$work/parts/"* | grep -c '^@@ whole$')" = "$parts" ] && section end
}
main </dev/null
