# A snapshot of a host: everything that gpurack's plan needs, read only. Runs as root, from standard input of `sh -s`.
# gpurack puts variables in front: OF_DOCKER (snapshot_docker.sh), LIMIT (seconds for each part), RUN (/run/gpurack),
# KNOWN (sha256 and path of the files that gpurack brings), USERS (with a rootless Docker), WEIGHTS (one item a line),
# NEEDED (user|path of weights that a user's Docker uses), READERS (those of them that no other Docker uses), SEEN
# (stamp|path of weights whose headers are known), READER (weights_header.py), HAS_ACCOUNT (first_account.py), NAMES (to
# look up), COMPOSE (is its version asked?), PINNED (version|packages of which one must have it), and the questions to a
# Docker, each with its user in front ("" for the host's own): IMAGES, PROBES, COUNTERS, LOGS, VOLUMES, UPSTREAMS.
# Output: sections headed by "@@MARK name", for gpurack/facts/parse.py. MARK is random for each snapshot, so that no name
# of a process, file or container can open a section. Where gzip is installed, all of it is below the heading "gzip".
# POSIX sh, coreutils, findutils, awk and util-linux only: a fresh host has neither python3 nor curl.

snapshot_system() {
	section os
	while IFS= read -r line || [ -n "$line" ]; do printf '%s\n' "$line"; done </etc/os-release
	section machine
	echo "arch $(dpkg --print-architecture 2>/dev/null || uname -m)"
	read -r init </proc/1/comm
	echo "init $init"
	read -r name number unit </proc/meminfo && [ "$name $unit" = 'MemTotal: kB' ] && echo "memory $number"
	id=''
	[ ! -f /etc/machine-id ] || read -r id </etc/machine-id
	case $id in *[!0-9a-f]*) ;; *) echo "id $id" ;; esac
	echo "now $(date -u +%Y-%m-%dT%H:%M:%SZ)"
	echo "address $(own_address)"
	ip -o address show scope global 2>/dev/null | {
		all=''
		while read -r number device kind address rest; do
			case $device in docker0) continue ;; br-*) case ${device#br-} in *[!0-9a-f]*) ;; *) continue ;; esac ;; esac
			case $kind in inet | inet6) all="$all ${address%%/*}" ;; esac
		done
		echo "addresses$all"
	}
	for tool in python3 curl git; do have "$tool" && echo "tool $tool"; done
	read -r pid 2>/dev/null </run/docker.pid || pid=none
	{ have dockerd || [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; } && echo "tool dockerd"
	for file in /usr/lib*/docker/cli-plugins/docker-buildx; do [ -e "$file" ] && echo "tool buildx" && break; done
	# A shared lock: two snapshots at once are no "other run" to each other.
	[ -f "$RUN/lock" ] && ! flock -s -n -o "$RUN/lock" true &&
		echo "busy $(head -n 1 "$RUN/busy" 2>/dev/null || echo unknown)"
	# Changes that a run works on without the lock: files/claims.py.
	for file in "$RUN"/change.*; do
		[ -f "$file" ] && ! flock -s -n -o "$file" true && echo "changing ${file##*/change.}"
	done
	manager=$(manager_of_rpms)
	[ -z "$manager" ] || echo "manager $manager"
	section rpms
	have rpm && rpm -qa --qf '%{NAME}|%{EPOCH}|%{VERSION}-%{RELEASE}|%{ARCH}|%{INSTALLTIME}\n' 'docker*' 'containerd*' runc moby-engine shadow-utils acl \
		podman-docker '*nvidia*' 'cuda-drivers*' libnvsdm nvlsm 'datacenter-gpu-manager*' '*versionlock*' ca-certificates 2>/dev/null
	section packages
	dpkg-query -W -f '${db:Status-Abbrev}|${Package}|${Version}\n' 2>/dev/null |
		grep -E '\|(docker|containerd|runc\||[^|]*nvidia|cuda-drivers|libcuda1\||libcudadebugger1\||libnvcuvid1\||libnvoptix1\||libnvsdm|nvlsm\||datacenter-gpu-manager|podman-docker|python3\||curl\||ca-certificates\||uidmap\||slirp4netns\||rootlesskit\||dbus-user-session\||acl\|)'
	section audit
	said=$(dpkg --audit 2>/dev/null)
	[ -z "$said" ] || printf '%s\n' "$said" | grep -c '^ '
	section units
	set -- docker.service containerd.service gpurack.service nvidia-cdi-refresh.service \
		snap.docker.dockerd.service firewalld.service nvidia-fabricmanager.service nvidia-persistenced.service
	# a block for each unit, parted by empty lines; Names has also its aliases
	{
		systemctl show "$@" -p Names,LoadState,ActiveState,UnitFileState,ExecStart,Environment,EnvironmentFiles,MainPID 2>/dev/null
		echo
	} | {
		names='' said='' block='' docker=''
		while IFS= read -r line; do
			case $line in
			Names=*) names=" ${line#*=} " ;;
			LoadState=* | ActiveState=* | UnitFileState=*) said="$said $line" ;;
			'')
				for unit; do
					case $names in *" $unit "*) ;; *) continue ;; esac
					[ "$unit" != docker.service ] || docker=$block
					echo "$unit$said"
				done
				names='' said='' block=''
				;;
			*)
				block="$block$line
"
				;;
			esac
		done
		echo "flags $(dockerd_flags "$docker")"
	}
	section files
	set --
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources /etc/yum.repos.d/*.repo \
		/etc/docker/daemon.json /etc/apt/keyrings/gpurack-*.asc /etc/pki/rpm-gpg/gpurack-*.asc \
		/etc/dnf/plugins/versionlock.list /etc/dnf/versionlock.toml /etc/yum/pluginconf.d/versionlock.list \
		/var/lib/gpurack/rpm-transaction /etc/gpurack/compose.yaml /etc/gpurack/jobs/*.yaml /var/lib/gpurack/record.json /var/lib/gpurack/jobs/*.json \
		/etc/apt/apt.conf.d/80gpurack-proxy /etc/dnf/dnf.conf /etc/yum.conf /etc/systemd/system/docker.service.d/gpurack-proxy.conf /var/lib/gpurack/trusted /var/lib/gpurack/driver-held \
		/usr/local/share/ca-certificates/gpurack-*.crt /etc/pki/ca-trust/source/anchors/gpurack-*.crt \
		/var/lib/gpurack/users/*/compose.yaml /etc/systemd/system/gpurack.service /usr/local/lib/gpurack/* /usr/local/libexec/gpurack/* \
		/run/gpurack/docker-restart /var/lib/gpurack/docker-restart.json /var/lib/gpurack/held /etc/nvidia-container-runtime/config.toml \
		/etc/tmpfiles.d/gpurack.conf /etc/tmpfiles.d/gpurack-logs.conf /etc/sysctl.d/60-gpurack.conf /etc/apparmor.d/gpurack-rootlesskit; do
		case $file in *[!A-Za-z0-9._/@+:-]*) continue ;; esac
		[ ! -f "$file" ] || set -- "$@" "$file"
	done
	wanted=" $* "
	# shellcheck disable=SC2046 # one word for each file: the characters of their names were checked
	[ "$#" = 0 ] || set -- $(find -L "$@" -maxdepth 0 -type f -size -4194305c)
	section oversized
	case $wanted in *" /var/lib/gpurack/record.json "*)
		case " $* " in *" /var/lib/gpurack/record.json "*) ;; *) echo /var/lib/gpurack/record.json ;; esac ;;
	esac
	[ "$#" = 0 ] || snapshot_files "$@"
	section hashes
	[ ! -e /var/lib/gpurack/sha256 ] || head -c 16000000 /var/lib/gpurack/sha256 | grep -a '' # which ends the last line
	section secrets
	find /etc/gpurack/secrets /var/lib/gpurack/users/*/secrets -type f ! -name '*[!A-Za-z0-9._@+:-]*' -printf '%p %m %U\n' 2>/dev/null
	section exposed
	find /var/lib/gpurack/sha256 /var/lib/gpurack/jobs /var/lib/gpurack/backups -type f -perm /077 \
		! -name '*[!A-Za-z0-9._@+:-]*' 2>/dev/null
	section ports
	ports=$(ss -Hltne 2>/dev/null)
	printf '%s\n' "$ports"
	# The owner of a port is found by the socket's number: process names may hold anything, also newlines.
	section owners
	owners=$({ printf '%s\n' "$ports"; find /proc/[0-9]*/fd -maxdepth 1 -lname 'socket:*' -printf '%h %l\n' 2>/dev/null; } | awk '
		$2 in wanted && !seen[$0]++ { split($1, part, "/"); print part[3], wanted[$2] }
		match($0, / ino:[0-9]+ /) { number = substr($0, RSTART + 5, RLENGTH - 6); wanted["socket:[" number "]"] = number }')
	[ -n "$owners" ] || return 0
	set --
	while read -r pid number; do set -- "$@" "/proc/$pid"; done <<-EOF
	$owners
	EOF
	whose=$(stat -c '%n %U' "$@")
	while read -r pid number; do
		user=${whose#*"/proc/$pid "}
		[ "$user" != "$whose" ] && read -r name <"/proc/$pid/comm" && echo "$number $pid ${user%%
*} $name"
	done <<-EOF
	$owners
	EOF
}

# snapshot_files FILE…: the attributes of files, which of them have the content that gpurack knows (KNOWN), and of the
# others the sha256 and the lines, each after its path and a NUL.
snapshot_files() {
	section files
	stat -c '%n %a %u %g' "$@"
	digests=$(sha256sum "$@")
	section known
	set --
	while read -r digest file; do
		case "
$KNOWN
" in
		*"
$digest $file
"*) echo "$file" ;;
		*) set -- "$@" "$digest $file" ;;
		esac
	done <<-EOF
	$digests
	EOF
	[ "$#" -gt 0 ] || return 0
	section differing
	printf '%s\n' "$@"
	section contents
	for file; do
		shift
		set -- "$@" "${file#* }"
	done
	grep -aHZ '' "$@" | if have gzip; then gzip -1; else cat; fi | base64 -w 0
}

# dockerd_flags PROPERTIES: print the command line of dockerd as its unit has it, followed by the values of its variables;
# where the unit starts a script, that of the dockerd that runs below it. (files/daemon_json.py: dockerd_flags is exact.)
dockerd_flags() {
	started=$1 command=''
	while IFS= read -r line; do
		case $line in *'argv[]='*';'*) command=${line##*'argv[]='} command=${command%%;*} ;; esac
	done <<-EOF
	$started
	EOF
	case ${command%% *} in
	*/dockerd | dockerd | '') ;;
	*)
		main=$(printf '%s\n' "$started" | sed -n 's/^MainPID=//p')
		for pid in $main $(cat "/proc/$main/task/$main/children" 2>/dev/null); do
			[ "$(cat "/proc/$pid/comm" 2>/dev/null)" != dockerd ] || command=$(tr '\0\n' '  ' <"/proc/$pid/cmdline")
		done ;;
	esac
	case $command in *'$'*) ;; *)
		printf '%s\n' "$command"
		return
		;;
	esac
	for variable in $(printf '%s\n' "$command" | grep -o '[$]{*[A-Za-z_][A-Za-z0-9_]*' | tr -d '\044{'); do
		command="$command $(printf '%s\n' "$started" | sed -n -e "s/^Environment=.*\"$variable=\([^\"]*\)\".*/\1/p" \
			-e "s/^Environment=\(.* \)*$variable=\([^ \"]*\).*/\2/p" | tail -n 1)"
		command="$command $(printf '%s\n' "$started" | sed -n 's/^EnvironmentFiles=\(.*\) (ignore_errors=.*/\1/p' |
			while read -r file; do [ ! -f "$file" ] || cat "$file"; done | sed -n "s/^[[:space:]]*$variable=//p" | tail -n 1 | tr -d "\"'")"
	done
	printf '%s\n' "$command"
}

# snapshot_weights PATH: one part for each path, because its file system may hang. A path that other users can change is
# inspected as one of them, in a line of base64. Root touches nothing beyond it, because they could lead root elsewhere
# at any moment.
snapshot_weights() {
	spots=$(spots_of "$1")
	section owned
	[ -z "$spots" ] || printf '%s\n' "$spots" | while IFS= read -r spot; do printf '%s|%s\n' "$spot" "$1"; done
	reader='' who=root
	[ -z "$spots" ] || reader=$(printf '%s\n' "$READERS" | P="|$1" awk 'index($0, "|") && substr($0, index($0, "|")) == ENVIRON["P"] { sub(/\|.*/, ""); print; exit }')
	[ -z "$spots" ] || who=$(inspector "$spots" "$reader")
	remembered=$(remembered_of "$1")
	if [ "$who" != root ]; then
		section "inspected $1"
		as_account "$who" SEEN="$SEEN" READER="$READER" sh -c "$OF_DOCKER
inspect_weights"' "$1" "$2"' sh "$1" "$remembered" | head -c 500000 | base64 -w 0
		return
	fi
	weights_of "$1" "$remembered"
	# The commit of weights that an earlier run fetched from a hub.
	[ -z "$spots" ] && [ -f "$1.json" ] && [ ! -L "$1.json" ] || return 0
	section commits
	echo "$(dd if="$1.json" bs=65536 count=64 iflag=fullblock,nonblock 2>/dev/null | sed -n 's/^ "commit": "\([0-9a-f]*\)".*/\1/p')|$1"
}

# inspector SPOTS USER: print the account that inspects a path with these spots (spots_of). The first that applies: root,
# if there are no spots or only files, which lead nowhere; USER, the only one whose Docker uses the path; the owner of
# the first part that is not root's; `nobody` in the group that can write to the folders, as UID:GID, or in no group if
# everyone or several groups can. (The same rule as files/evidence.py: keeper.)
inspector() {
	owner=$(printf '%s\n' "$1" | sed -n '$s/^[a-z] [0-7]* \([^|]*\)|.*/\1/p')
	folders=$(printf '%s\n' "$1" | sed -n 's/^d [0-7]*\([0-7]\) [^|]*|\(.*\)/\1 \2/p')
	if [ -z "$1" ]; then
		echo root
	elif [ -n "$2" ]; then
		echo "$2"
	elif [ "$owner" != root ]; then
		echo "$owner"
	elif [ -z "$folders" ]; then
		echo root
	else
		group=$(printf '%s\n' "$folders" | awk '
			{ open += /^[2367]/; sub(/^. /, ""); open += NR > 1 && $0 != group; group = $0 }
			END { print open ? "-" : group }')
		number=$(getent group "$group" | cut -d : -f 3)
		case ${number:-$group} in *[!0-9]*) echo 65534:65534 ;; *) echo "65534:${number:-$group}" ;; esac
	fi
}

# as_account WHO COMMAND…: run as this user, or uid without a user, or UID:GID, without root's environment.
as_account() {
	groups=--init-groups
	account=$(getent passwd "$1") || account="$1:x:${1%%:*}:65534::/:" groups=--clear-groups
	case $1 in *:*) account="nobody:x:$1::/:" groups=--clear-groups ;; esac
	user=${account%%:*} account=${account#*:*:}
	uid=${account%%:*} account=${account#*:}
	gid=${account%%:*}
	shift
	setpriv --reuid "$uid" --regid "$gid" "$groups" env -i USER="$user" PATH="$PATH" LC_ALL=C MARK= "$@"
}

# The files of weights at a path whose sha256 earlier runs computed (hashes.py).
remembered_of() {
	[ -f /var/lib/gpurack/sha256 ] && cut -d ' ' -f 4- /var/lib/gpurack/sha256 2>/dev/null | WEIGHTS=$1 awk '
		BEGIN {
			path = ENVIRON["WEIGHTS"]
			split_file = sub(/-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]\.gguf$/, "-", path)
			inside = split_file ? path : path "/"
		}
		$0 == path || index($0, inside) == 1'
}

# manager_of_rpms: print the program and its generation. yum may be yum 3, or a link to dnf 4; dnf may be dnf 5.
manager_of_rpms() {
	for manager in dnf yum; do
		have "$manager" || continue
		case $(readlink -f "$(command -v "$manager")") in
		*/dnf5*) echo "$manager dnf5" ;;
		*/dnf*) echo "$manager dnf4" ;;
		*) echo "$manager yum3" ;;
		esac
		return
	done
}

# What the lists of the package manager, as the host has them, say of pinned packages that are not installed in their
# version: `NAME VERSION AGE REPOSITORY` for each version. AGE: seconds since the lists were renewed. REPOSITORY: for apt
# the URL, and suite/component where it has one; for dnf the id. yum 3 has no command for it.
snapshot_carried() {
	lacking=$(printf '%s\n' "$PINNED" | while IFS='|' read -r version names; do
		for name in $names; do
			case $(dpkg-query -W -f '${Version}' "$name" 2>/dev/null || rpm -q --qf '%{VERSION}-' "$name" 2>/dev/null) in
			"$version" | "$version"[-+~]* | *:"$version" | *:"$version"[-+~]*) continue 2 ;;
			esac
		done
		printf '%s ' "$names"
	done)
	[ -n "$lacking" ] || return
	section carried
	if have apt-cache; then
		in_memory="-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=" # a snapshot writes nothing
		# shellcheck disable=SC2086 # several words on purpose
		timeout 15 apt-cache $in_memory madison $lacking 2>/dev/null | awk -v age="$(age_of /var/lib/apt/lists /var/lib/apt/lists/partial \
			/var/lib/apt/periodic/update-success-stamp)" '{ print $1, $3, age, $5 ($6 ~ "/" ? " " $6 : "") }'
		return
	fi
	manager=$(manager_of_rpms)
	case $manager in
	# without the versions that versionlock hides, as plan/packages/rpm.py: available
	*dnf5) set -- --setopt='disable_excludes=*' ;;
	*dnf4) set -- --disableplugin=versionlock ;;
	*) return ;;
	esac
	known='' age=''
	# shellcheck disable=SC2086 # several words on purpose
	timeout 15 "${manager% *}" -q -C "$@" repoquery --showduplicates \
		--qf '%{name} %{epoch}:%{version}-%{release} %{repoid}\n' $lacking 2>/dev/null | while read -r name version id; do
		case $id in '' | *[!A-Za-z0-9._:+-]*) continue ;; esac
		[ "$id" = "$known" ] || age=$(age_of /var/cache/dnf/"$id"-*/repodata/* /var/cache/libdnf5/"$id"-*/repodata/*)
		known=$id
		echo "$name $version $age $id"
	done
}

# age_of PATH…: print the seconds since the last change of any of them, those since 1970 if all are missing.
age_of() {
	renewed=$(stat -c %Y "$@" 2>/dev/null | sort -n | tail -n 1)
	echo $(($(date +%s) - ${renewed:-0}))
}

# The sections of NVIDIA's GPUs: what the kernel and the disk say (snapshot_driver), then nvidia-smi.
snapshot_nvidia() {
	cards=''
	section driver
	cat /proc/driver/nvidia/version 2>/dev/null
	section pci
	for card in /proc/driver/nvidia/gpus/*/information; do
		[ -e "$card" ] || continue
		uuid='' excluded=''
		while IFS=: read -r field value; do
			case $field in
			'GPU UUID') uuid=${value#"${value%%[![:space:]]*}"} ;;
			'GPU Excluded') excluded=${value#"${value%%[![:space:]]*}"} ;;
			esac
		done <"$card"
		# by the module's NVreg_ExcludedGpus: nvidia-smi does not list it
		case $excluded in Yes*) continue ;; esac
		echo "$card|$uuid"
	done
	section nvidia
	on_bus
	if [ -n "$cards" ] || [ -e /proc/driver/nvidia/version ]; then
		snapshot_driver
		section kernellog
		# only what begins with the driver's name: users put text into the log, as a path that overlayfs cannot resolve
		dmesg --time-format iso 2>/dev/null | awk '
			/^[^ ]/ { ours = /^(\[ *[0-9.]+\]|[0-9T:,.+-]+)( *\[ *[TC][0-9]+\])? +(NVRM: |nvidia-nvswitch[0-9]*: .*Version mismatch)/ }
			ours' | tail -n 200
	fi
	if have nvidia-smi; then
		smi_gpus
		section processes
		# not its errors, which it prints there too
		nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory --format=csv,noheader,nounits 2>/dev/null |
			grep -E '^[^,]+, *[0-9]+,' | while IFS=', ' read -r uuid pid used; do
				echo "$uuid,$pid,$used,$(holder "$pid")"
			done
	fi
	if have nvidia-ctk; then
		section cdi
		nvidia-ctk cdi list 2>/dev/null
	fi
	section cdispecs
	for spec in /etc/cdi/* /var/run/cdi/*; do
		case $spec in *[!A-Za-z0-9._/@+:-]*) continue ;; *.yaml | *.json) ;; *) continue ;; esac
		[ -f "$spec" ] && head -c 1000000 "$spec" | grep -q nvidia && cdi_spec "$spec"
	done
}

# smi_gpus: the sections `gpus`, `remapped` and `mig`. A driver refuses a query with a field that it does not know (exit 2).
# So drivers before 550 are asked by two queries at once: the second has the fields that they may not know. A
# newer one that no longer knows a field is asked once more without it, and any other that refuses the only query for
# less. Remapped rows are asked at the same time; MIG instances only if a GPU is in MIG mode.
smi_gpus() {
	nvidia-smi --query-remapped-rows=gpu_uuid,remapped_rows.correctable,remapped_rows.uncorrectable,remapped_rows.pending,remapped_rows.failure \
		--format=csv,noheader,nounits >"$work/remapped" 2>/dev/null &
	remapped=$! apart='' code=2 fields=''
	sure=index,uuid,name,memory.total,memory.used,driver_version,mig.mode.current,pci.bus_id,utilization.gpu,persistence_mode,compute_mode,pcie.link.width.current,pcie.link.width.max,power.limit,power.default_limit,ecc.mode.current,ecc.errors.uncorrected.volatile.total,temperature.gpu
	branch=$(driver_branch)
	row='(,.*){7}|^ *[0-9]+, *(GPU-|[0-9A-Fa-f]{8}-)' # the second: of a row that is cut short
	less=$sure
	[ "$branch" -lt 550 ] || less=$sure,compute_cap
	[ "$branch" -ge 510 ] || apart=clocks_throttle_reasons.active
	[ "$branch" -lt 510 ] || [ "$branch" -ge 550 ] || apart=compute_cap,clocks_throttle_reasons.active
	section gpus
	if [ "$branch" = 0 ] || [ "$branch" -ge 550 ]; then
		apart=''
		fields=$sure,compute_cap,clocks_event_reasons.active,reset_status.reset_required,fabric.state,fabric.status,addressing_mode
		answer=$(nvidia-smi --query-gpu="$fields" --format=csv,noheader,nounits 2>&1)
		code=$?
		named=''
		[ "$code" != 2 ] || named=$(printf '%s\n' "$answer" | sed -n 's/^Field "\([a-z_.]*\)" is not a valid.*/\1/p')
		# an unknown driver names the first field that it does not know; compute_cap is the first of the newer ones
		case $named in '' | compute_cap) ;; *) less=$sure,compute_cap ;; esac
		if [ "$code" = 2 ] && [ "$branch" != 0 ]; then
			without=$(echo "$fields," | sed "s/,$named,/,/;s/,\$//")
			if [ "$without" != "$fields" ]; then
				fields=$without
				answer=$(nvidia-smi --query-gpu="$fields" --format=csv,noheader,nounits 2>&1)
				code=$?
			fi
		fi
	else
		nvidia-smi --query-gpu="uuid,$apart" --format=csv,noheader,nounits >"$work/apart" 2>/dev/null &
		asked=$!
	fi
	for some in "$less" "$sure"; do
		[ "$code" = 2 ] && [ "$some" != "$fields" ] || continue
		fields=$some
		answer=$(nvidia-smi --query-gpu="$fields" --format=csv,noheader,nounits 2>&1)
		code=$?
	done
	[ -z "$apart" ] || wait "$asked"
	rows=$(printf '%s\n' "$answer" | grep -E "$row")
	if [ "$code" != 0 ] || [ -z "$rows" ]; then
		printf 'exit %s|%s\n' "$code" "$(printf '%s\n' "$answer" | grep -vE "$row" | tr '\r\n' '  ')"
	fi
	if [ "$code" != 0 ]; then
		# A lost GPU ends the query (exit 15); then the GPUs are queried one by one, by PCI address.
		set -- /proc/driver/nvidia/gpus/*
		if [ -e "$1" ] && [ "$(printf '%s\n' "$rows" | grep -c .)" -lt $# ]; then
			each=$(for card; do
				nvidia-smi -i "${card##*/}" --query-gpu="$fields" --format=csv,noheader,nounits 2>/dev/null | grep -E "$row"
				[ -z "$apart" ] ||
					nvidia-smi -i "${card##*/}" --query-gpu="uuid,$apart" --format=csv,noheader,nounits >>"$work/apart" 2>/dev/null
			done)
			rows=${each:-$rows}
		fi
	fi
	# rows count whatever the exit code (14: a damaged infoROM); a driver that does not know a field gives none
	if [ -n "$apart" ] && grep -q , "$work/apart"; then
		fields=$fields,$apart
		rows=$(printf '%s\n' "$rows" | awk -F ', ' '
			FILENAME != "-" { uuid = $1; sub(/^[^,]*, /, ""); more[uuid] = $0; next }
			NF { print $0 ", " more[$2] }' "$work/apart" -)
	fi
	[ -z "$rows" ] || printf 'fields %s\n%s\n' "$fields" "$rows"
	wait "$remapped"
	section remapped
	cat "$work/remapped"
	# the column mig.mode.current
	if printf '%s\n' "$rows" | grep -qE '^([^,]*, ){6,7}Enabled, '; then
		section mig
		nvidia-smi -L 2>/dev/null
	fi
}

# The branch of the loaded driver, 0 if unknown: `… Kernel Module  580.159.04  …`.
driver_branch() {
	branch=0
	read -r line 2>/dev/null </proc/driver/nvidia/version
	for word in $line; do
		case $word in [1-9]*.[0-9]*) branch=${word%%.*} && break ;; esac
	done
	case $branch in *[!0-9]*) branch=0 ;; esac
	echo "$branch"
}

# NVIDIA's GPUs (classes VGA and 3D) and NVSwitches (class bridge) on the PCI bus, with or without a driver.
on_bus() {
	for device in /sys/bus/pci/devices/*; do
		read -r vendor <"$device/vendor" && [ "$vendor" = 0x10de ] && read -r class <"$device/class" && read -r id <"$device/device" || continue
		case $class in
		0x0300* | 0x0302*)
			by=$(readlink "$device/driver")
			cards="$cards ${device##*/}"
			echo "card ${device##*/} $id ${by##*/}"
			;;
		0x0680*) echo "switch ${device##*/} $id" ;;
		esac
	done
	[ ! -e /sys/module/nouveau ] || echo 'nouveau yes'
	[ ! -e /dev/dxg ] || echo 'wsl yes'
	for device in /dev/nvhost-*; do
		[ ! -e "$device" ] || { echo 'jetson yes' && break; }
	done
} 2>/dev/null

# What is installed for NVIDIA's driver: the module of each kernel, the library, Secure Boot, device nodes and majors,
# and whether the host has the switches of NVLink 5 (a ConnectX with SW_MNG in its product data).
snapshot_driver() {
	echo "kernel $(uname -r)"
	for folder in /lib/modules/*/kernel; do
		[ -d "$folder" ] || continue
		folder=${folder%/kernel}
		kernel=${folder##*/}
		# Debian's own modules are nvidia-current and nvidia-current-open, also nvidia-tesla-535 and nvidia-legacy-390xx
		name=$(sed -nE 's#^([^:]*/)?(nvidia(-(current|tesla(-[0-9]+)?|legacy-[0-9]+xx)(-open)?)?)\.ko[^:]*:.*#\2#p' "$folder/modules.dep" | head -n 1)
		[ -z "$name" ] || name=" $name|$(modinfo -k "$kernel" "$name" | awk -F ': *' '
			$1 == "version" { version = $2 } $1 == "license" { license = $2 } $1 == "signer" { signer = $2 }
			$1 == "sig_id" { form = $2 } # all that a modinfo without OpenSSL knows of a signature
			END { print version "|" license "|" (signer == "" ? form : signer) }')"
		echo "module $kernel$name"
	done
	# what programs load; files of other versions may be left beside it
	for file in /usr/lib64/libnvidia-ml.so.1 "/usr/lib/$(uname -m)-linux-gnu/libnvidia-ml.so.1" /usr/lib/libnvidia-ml.so.1; do
		[ -e "$file" ] && file=$(readlink -f "$file") && echo "library ${file##*/libnvidia-ml.so.}" && break
	done
	echo "secureboot $(secure_boot)"
	set --
	for file in /dev/nvidia* /dev/nvidia-caps/* /dev/nvidia-caps-imex-channels/*; do
		[ ! -c "$file" ] || set -- "$@" "$file"
	done
	[ "$#" = 0 ] || stat -c 'node %n %t %T' "$@"
	sed -n 's/^ *\([0-9]*\) \(nvidia[a-z-]*\)$/major \2 \1/p' /proc/devices
	if grep -qE 'B[23]00' /proc/driver/nvidia/gpus/*/information && grep -lqs SW_MNG /sys/class/infiniband/*/device/vpd; then
		echo 'nvlink5 yes'
	fi
} 2>/dev/null

# Print enabled or disabled; nothing if unknown.
secure_boot() {
	said=$(mokutil --sb-state)
	case $said in
	*'validation is disabled'* | *'SecureBoot disabled'*) echo disabled ;;
	*'SecureBoot enabled'*) echo enabled ;;
	*)
		# four bytes of attributes, then the value
		for file in /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c; do
			case $(od -A n -t u1 -j 4 -N 1 "$file" | tr -d ' ') in 1) echo enabled ;; 0) echo disabled ;; esac
		done
		;;
	esac
}

# Of a CDI spec its kind, the names of its devices, its device nodes with their numbers ("-" if the spec has none), and
# what of its paths is missing. The items of YAML and JSON become lines `key: value`, each item after a line that begins
# with "-" or ";": the numbers of a node may come before its path. Comments of YAML are left out.
cdi_spec() {
	echo "spec $1"
	head -c 1000000 "$1" | sed -e 's/^[[:space:]]*#.*//' -e ':again' -e 's/^\([^{]*\)[[:space:]]#.*/\1/' -e 't again' | tr -d "\"'\\\\ \t\r" | sed 's/[{}]/\n;\n/g' | tr ',[]' '\n\n\n' | awk '
		function flush() {
			if (path ~ /^\/dev\// && host == "") host = path
			if (path ~ /^\/dev\// && host ~ /^\/dev\/nvidia[A-Za-z0-9_\/-]*$/) print "node", host, major, minor
			else if (path ~ /^\/dev\//) print "path", host
			else if (path !~ /^\/dev\//) { print "path", host; print "path", path }
			path = host = ""; major = minor = "-"
		}
		BEGIN { major = minor = "-" }
		/^[;-]/ { flush() }
		{ sub(/^-/, ""); at = index($0, ":"); key = substr($0, 1, at - 1); value = substr($0, at + 1) }
		key == "kind" { print "kind", value }
		key == "name" && value ~ /^[A-Za-z0-9][A-Za-z0-9_.:-]*$/ { print "device", value }
		key == "hostPath" && value ~ /^\// { host = value }
		key == "path" && value ~ /^\// { path = value }
		key == "major" && value ~ /^[0-9]+$/ { major = value }
		key == "minor" && value ~ /^[0-9]+$/ { minor = value }
		END { flush() }' | sort -u | while read -r what value rest; do
		case $what in
		path) [ -e "$value" ] || [ -z "$value" ] || echo "gone $value" ;;
		node)
			[ -e "$value" ] || echo "gone $value"
			echo "node $value $rest"
			;;
		*) echo "$what $value" ;;
		esac
	done
}

# A process's user, container and name, the last because it may hold anything. The container is in its cgroup's name:
# docker-<64 hex digits>.scope, docker/…, runc-….scope; behind that of a container around it, which a hybrid hierarchy
# lists alone before. Users choose the names below their slice: its uid is in front.
holder() {
	container=$(sed -n 's/.*[-/]\([0-9a-f]\{64\}\).*/\1/p' "/proc/$1/cgroup" 2>/dev/null | tail -n 1)
	uid=$(sed -n '/\/user-[0-9][0-9]*\.slice\//{s|/user-\([0-9]*\)\.slice/.*|#\1|;s|.*#||;p;q;}' "/proc/$1/cgroup")
	[ -z "$container" ] || [ -z "$uid" ] || container=$uid:$container
	read -r comm <"/proc/$1/comm"
	echo "$(stat -c %U "/proc/$1" 2>/dev/null),$container,$comm"
} 2>/dev/null

# AMD GPUs and their processes, by sysfs, which needs no tools: the nodes of the kernel's compute driver (KFD).
snapshot_amd() {
	[ -e /sys/class/kfd/kfd ] || return 0
	section amd
	echo "kfd $(stat -c %g /dev/kfd)"
	for node in /sys/class/kfd/kfd/topology/nodes/*; do
		id=$(cat "$node/gpu_id")
		[ "${id:-0}" != 0 ] || continue # a CPU
		minor=$(sed -n 's/^drm_render_minor //p' "$node/properties")
		device=/sys/class/drm/renderD$minor/device
		# the memory that ROCm sees: for a GPU in a CPU also the host's
		banks=$(cat "$node"/mem_banks/*/properties | awk '
			$1 == "heap_type" { ours = $2 == 1 || $2 == 2 }
			$1 == "size_in_bytes" && ours { sum += $2 }
			END { printf "%.0f", sum }')
		printf 'card gpu_id %s|gid %s|total %s|used %s|banks %s|gtt %s|busy %s|name %s|%s\n' "$id" "$(stat -c %g "/dev/dri/renderD$minor")" \
			"$(cat "$device/mem_info_vram_total")" "$(cat "$device/mem_info_vram_used")" "$banks" \
			"$(cat "$device/mem_info_gtt_used")" "$(cat "$device/gpu_busy_percent")" \
			"$(amd_name "$device")" "$(tr '\n' '|' <"$node/properties")"
	done
	for file in /sys/class/kfd/kfd/proc/[0-9]*/vram_*; do
		used=$(cat "$file")
		[ "${used:-0}" != 0 ] || continue
		pid=${file%/*}
		pid=${pid##*/}
		echo "process ${file##*_},$pid,$used,$(holder "$pid")"
	done
} 2>/dev/null

# The GPU's own name (Instinct), or that of libdrm for its ids ("744C, C8, AMD Radeon RX 7900 XTX").
amd_name() {
	name=$(cat "$1/product_name")
	ids=$(cat "$1/device" "$1/revision" | sed 's/^0x//' | tr 'a-f\n' 'A-F,' | sed 's/,/,[[:space:]]*/g')
	[ -n "$name" ] || name=$(sed -n "s/^$ids//p" /usr/share/libdrm/amdgpu.ids /opt/amdgpu/share/libdrm/amdgpu.ids | head -n 1)
	echo "$name"
}

# The addresses of other hosts that services connect to.
snapshot_names() {
	section names
	[ -z "$NAMES" ] || printf '%s\n' "$NAMES" | while IFS= read -r name; do
		[ -n "$name" ] && echo "$(getent ahostsv4 "$name" | sed -n '1s/ .*//p')|$name"
	done
}

# Facts of the host for rootless Docker only.
snapshot_rootless() {
	section rootless
	for name in kernel/unprivileged_userns_clone user/max_user_namespaces kernel/apparmor_restrict_unprivileged_userns; do
		[ -e "/proc/sys/$name" ] && echo "sysctl $name $(cat "/proc/sys/$name")"
	done
	grep -lqs rootlesskit /etc/apparmor.d/* && echo "apparmor yes"
	for file in /etc/subuid /etc/subgid; do
		sed "s|^|${file##*/} |" "$file"
	done
	# A range of subordinate ids must not contain an account's id.
	getent passwd | awk -F: '$3 >= 65536 { print "uid", $3 }'
	for folder in /etc/cdi /run/cdi; do [ -d "$folder" ] && echo "folder $folder"; done
}

# choose: keep of the questions those to one Docker, which have its user in front.
choose() {
	NEEDED=$(questions "$NEEDED") IMAGES=$(questions "$IMAGES") PROBES=$(questions "$PROBES") LOGS=$(questions "$LOGS")
	COUNTERS=$(questions "$COUNTERS") VOLUMES=$(questions "$VOLUMES") UPSTREAMS=$(questions "$UPSTREAMS")
}
questions() {
	while IFS= read -r line; do
		case $line in "$user|"*) printf '%s\n' "${line#"$user|"}" ;; esac
	done <<-EOF
	$1
	EOF
}

snapshot_host_docker() {
	user='' SECRETS=/etc/gpurack/secrets
	choose
	snapshot_docker
	[ -n "$COMPOSE" ] || return 0
	section compose
	docker compose version --short 2>/dev/null
}

snapshot_host_upstreams() {
	[ -n "$UPSTREAMS" ] || return 0
	user=''
	choose
	snapshot_upstreams
}

# Root's facts of a user and then, in one line of base64, the output of the user's own programs.
snapshot_user() {
	user=$1
	section "user $user"
	account=$(getent passwd "$user") || return 0
	uid=$(printf '%s' "$account" | cut -d: -f3)
	gid=$(printf '%s' "$account" | cut -d: -f4)
	home=$(printf '%s' "$account" | cut -d: -f6)
	runtime=/run/user/$uid
	echo "account $uid $gid $home"
	[ -e "/var/lib/systemd/linger/$user" ] && echo "linger yes"
	echo "folder $(stat -c '%a %u' "/var/lib/gpurack/users/$user")"
	echo "weights $(getfacl -cpn "$USERS_WEIGHTS/$user" | tr '\n' ' ')"
	section "said $user"
	[ "$uid" != 0 ] || return 0
	choose
	{
		# its children are in its process group, which the limit kills as a whole
		timeout -s KILL "$LIMIT" setpriv --reuid "$uid" --regid "$gid" --init-groups env -i HOME="$home" USER="$user" \
			PATH="$PATH" XDG_RUNTIME_DIR="$runtime" DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus" \
			DOCKER_HOST="unix://$runtime/docker.sock" LC_ALL=C MARK= SECRETS="/var/lib/gpurack/users/$user/secrets" \
			WEIGHTS="$NEEDED" HOME_FILES="$HOME_FILES" USER_MARKER="$USER_MARKER" VOLUMES="$VOLUMES" \
			HAS_ACCOUNT="$HAS_ACCOUNT" SOCKET="$SOCKET" IMAGES="$IMAGES" PROBES="$PROBES" COUNTERS="$COUNTERS" LOGS="$LOGS" \
			UPSTREAMS="$UPSTREAMS" sh -c "$OF_DOCKER
snapshot_own" &
		group=$!
		wait "$group"
		echo "$? $group" >"$work/code $user"
	} | head -c 1000000 | base64 -w 0
	read -r code group <"$work/code $user"
	if [ "$code" = 137 ]; then
		section late
		sleep 0.2
		# shellcheck disable=SC2046 # several words on purpose
		echo "user $user|timed out after $LIMIT s$(note "user $user" $(members "$group"))"
	fi
}

# begin NAME COMMAND…: run a part of the snapshot in parallel. A part that still hangs from an earlier one is not begun.
begin() {
	if [ -d "$RUN/hung" ] && since=$(hangs "$1"); then
		late="$late$1|still hangs since $since
"
		return
	fi
	parts=$((parts + 1))
	(
		part=$parts
		shift
		"$@"
		section whole # on a full disk the file comes out short
		echo "$part" >"$work/ended"
	) >"$work/part $parts" 2>/dev/null 4>&- &
	begun="$begun$parts $! $1
"
}

# The file that records hanging processes of a part.
hung_of() {
	case $1 in
	*/*) echo "$RUN/hung/weights $(printf '%s' "$1" | cksum | tr ' ' -)" ;;
	*) echo "$RUN/hung/$1" ;;
	esac
}

# The start time of a process in the kernel's ticks; nothing for one that has ended.
started() {
	said=$(tr '\n' ' ' <"/proc/$1/stat") 2>/dev/null || return 1
	# shellcheck disable=SC2086 # several words on purpose; the process's name, which may hold anything, ends in ")"
	set -- ${said##*) }
	case $1 in '' | Z | X) return 1 ;; esac
	echo "${20}"
} 2>/dev/null

# Since when a part hangs, if one of its processes still exists.
hangs() {
	hung=$(hung_of "$1")
	[ -f "$hung" ] || return 1
	while read -r since pid ticks; do
		[ "$(started "$pid")" = "$ticks" ] && echo "$since (pid $pid)" && return
	done <"$hung"
	rm -f "$hung"
	return 1
}

# A process and its descendants.
family() {
	grep -H '^PPid:' /proc/[0-9]*/status 2>/dev/null | awk -F '[/:\t ]+' -v top="$1" '
		{ parent[$3] = $6 }
		END {
			found[top]
			do {
				more = 0
				for (pid in parent) if (!(pid in found) && (parent[pid] in found)) { found[pid]; more = 1 }
			} while (more)
			for (pid in found) print pid
		}'
}

# abandon NAME PID: kill a part that takes too long. Processes that SIGKILL does not end (they wait for a file system or
# a GPU) are recorded until they end, and printed.
abandon() {
	family=$(family "$2")
	# shellcheck disable=SC2086 # several words on purpose
	kill -9 $family 2>/dev/null
	sleep 0.2
	# shellcheck disable=SC2086
	note "$1" $family
}

# note NAME PID…: record and print those of these processes that still exist.
note() {
	hung=$(hung_of "$1")
	shift
	for pid in "$@"; do
		ticks=$(started "$pid") || continue
		(umask 077 && mkdir -p "$RUN/hung" && echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) $pid $ticks" >>"$hung")
		printf ', pid %s (%s) is left behind' "$pid" "$(tr -cd 'A-Za-z0-9._-' <"/proc/$pid/comm")"
	done
}

# The processes of a group.
members() {
	group=$1
	for file in /proc/[0-9]*/stat; do
		said=$(tr '\n' ' ' <"$file") 2>/dev/null || continue
		# shellcheck disable=SC2086 # several words on purpose; the process's name, which may hold anything, ends in ")"
		set -- ${said##*) }
		[ "$3" != "$group" ] || echo "${said%% *}"
	done
} 2>/dev/null

# Wait until all parts have ended or the limit is reached; a user's part ends by itself just before.
await() {
	{
		sleep "$((LIMIT + 2))" &
		trap 'kill $!; exit' TERM
		wait $!
		echo 'time is up' >"$work/ended"
	} >/dev/null 2>&1 4>&- &
	timer=$!
	ended='' running=$parts
	while [ "$running" -gt 0 ] && read -r part <&4 && [ "$part" != 'time is up' ]; do
		ended="$ended$part
"
		running=$((running - 1))
	done
	kill "$timer" 2>/dev/null
}

# The mount that a path is on, by its name: nothing there is touched.
mount_of() {
	WAY=$1/ awk '
		{ mount = $2 == "/" ? "/" : $2 "/" }
		index(ENVIRON["WAY"], mount) == 1 && length($2) > length(found) { found = $2 }
		END { print found }' /proc/self/mounts
}

# Print every complete part, the late ones with the reason, and the end section if no part was cut off.
deliver() {
	short=''
	set --
	while read -r part pid name; do
		[ -n "$name" ] || continue
		case "
$ended" in
		*"
$part
"*)
			set -- "$@" "$work/part $part"
			;;
		*) late="$late$name|timed out after $LIMIT s$(abandon "$name" "$pid")
" ;;
		esac
	done <<-EOF
	$begun
	EOF
	if [ "$#" -gt 0 ]; then
		count=0 # users see what a program is started with, and MARK is not theirs to know
		while IFS= read -r line; do
			[ "$line" != "@@$MARK whole" ] || count=$((count + 1))
		done <<-EOF
		$(tail -q -n 1 "$@")
		EOF
		[ "$count" = "$#" ] || short=yes
		cat "$@"
	fi
	section late
	printf '%s' "$late"
	section mounts
	[ -z "$late" ] || printf '%s' "$late" | sed -n 's/^weights \(.*\)|[^|]*$/\1/p' | while IFS= read -r path; do
		echo "$(mount_of "$path")|$path"
	done
	[ -n "$short" ] || section end
}

# Text in UTF-8 without control characters: anything else would break pyinfra's reader of the connection.
readable() {
	if have iconv; then iconv -c -f UTF-8 -t UTF-8; else tr -d '\200-\377'; fi | tr -d '\000-\010\013-\037\177'
}

# The users in record.json, as record.py writes it.
recorded_users() { sed -n 's/^  "\([^"]*\)": {.*/\1/p' /var/lib/gpurack/record.json 2>/dev/null; }

main() {
	# root's own Docker client, without the login user's environment; WSL has nvidia-smi in a folder of its own
	HOME=~root
	export HOME LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/lib/wsl/lib" DOCKER_HOST=unix:///var/run/docker.sock
	unset DOCKER_CONFIG DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH XDG_RUNTIME_DIR
	work=$(mktemp -d) || exit 1
	trap 'rm -rf "$work"' EXIT
	# 122 bits of the kernel's random numbers
	read -r mark </proc/sys/kernel/random/uuid || exit 1
	MARK=''
	while [ -n "$mark" ]; do
		MARK=$MARK${mark%%-*}
		case $mark in *-*) mark=${mark#*-} ;; *) mark='' ;; esac
	done
	printf '@@ mark %s\n' "$MARK"
	mkfifo "$work/ended" || exit 1
	exec 4<>"$work/ended"
	parts=0 begun='' late='' me=$(id -u)
	users=$({ printf '%s\n' "$USERS"; ls /var/lib/gpurack/users 2>/dev/null; recorded_users; } | grep -x '[A-Za-z_][A-Za-z0-9_.-]*[$]\{0,1\}' | sort -u)
	begin system snapshot_system
	while IFS= read -r path; do
		[ -z "$path" ] || begin "weights $path" snapshot_weights "$path"
	done <<-EOF
	$WEIGHTS
	EOF
	[ -z "$PINNED" ] || begin carried snapshot_carried
	begin NVIDIA snapshot_nvidia
	begin AMD snapshot_amd
	begin Docker snapshot_host_docker
	begin names snapshot_names
	begin upstreams snapshot_host_upstreams
	[ -z "$users" ] || begin accounts snapshot_rootless
	for one in $users; do begin "user $one" snapshot_user "$one"; done
	await
	if have gzip; then
		printf '@@%s gzip\n' "$MARK"
		deliver | gzip -1 | base64 -w 0
	else
		deliver | readable
	fi
}
eval "$OF_DOCKER"
main </dev/null
