# The facts of one Docker and its models: a part of snapshot.sh. Root runs it for the host's own Docker, and each user for
# their own (snapshot_own), so that only the user accesses a user's files and programs.
# Variables: MARK (what headings hold), work (a folder), SECRETS (the folder of keys), IMAGES, PROBES
# (model|port inside|path|address|port), COUNTERS (model|path|name of a counter), LOGS (models whose logs say whether
# they compute on their GPUs), UPSTREAMS (service|number|file of a key|url), VOLUMES (of an Open WebUI without a first account), HAS_ACCOUNT, SOCKET (docker_socket.py), SEEN and READER as in
# snapshot.sh; for a user also WEIGHTS and HOME_FILES.

# That of dash, which is sh on Debian and Ubuntu, makes a line of a "\n" in what is only a name.
echo() { printf '%s\n' "$*"; }
section() { printf '\n@@%s %s\n' "$MARK" "$1"; }
have() { command -v "$1" >/dev/null 2>&1; }
# The address of the default route: addresses for documentation are in no other route (RFC 5737, RFC 3849).
own_address() {
	for to in '-4 -o route get 192.0.2.1' '-6 -o route get 2001:db8::1'; do
		# shellcheck disable=SC2086 # several words on purpose
		route=$(ip $to 2>/dev/null)
		case $route in *' src '*) ;; *) continue ;; esac
		route=${route#*' src '}
		echo "${route%%[!0-9a-f.:]*}"
		return
	done
}

# One word from names, sizes and times of the files of weights: the same word means the same weights.
stamp() {
	case $1 in
	*-?????-of-?????.gguf) set -- "${1%-?????-of-?????.gguf}"-?????-of-"${1##*-of-}" ;;
	esac
	if [ -d "$1" ]; then
		find -L "$1" -maxdepth 1 -type f '(' -name '*.safetensors' -o -name '*.json' ')' -exec stat -L -c '%n %s %Y' {} +
	else
		stat -L -c '%n %s %Y' "$@"
	fi | { if [ "$#" = 1 ] && [ -f "$1" ]; then cksum; else sort | cksum; fi; } | {
		read -r sum length && echo "$sum-$length"
	}
}

# spots_of PATH: the parts of a path that other users than root can change: type, mode, owner and group of each folder,
# link or file. Root's links are followed one by one; the first part that is not root's is the last line, and root
# touches nothing beyond it. Names are not printed, because users choose them.
spots_of() {
	way=$1 links=40 end='-quit' follow='-uid 0'
	[ "${me:-$(id -u)}" = 0 ] || end='-true' follow='-true'
	while [ -n "$way" ] && [ "$links" -gt 0 ]; do
		rest=$way
		set --
		while [ -n "$rest" ]; do
			set -- "$rest" "$@"
			rest=${rest%/*}
		done
		# shellcheck disable=SC2086 # words of find on purpose
		said=$(find "$@" -maxdepth 0 '(' ! -uid 0 -printf '%y %m %u|%g\n' $end -o -uid 0 ! -type l -perm /022 \
			'(' ! -type d -o ! -perm -1000 ')' -printf '%y %m %u|%g\n' ')' , -type l $follow -printf '>%p\n' -quit 2>/dev/null)
		link=${said#*>} rest=${way#"${said#*>}"}
		case $said in
		*'>'*) way=$(readlink "$link")$rest ;;
		*) way='' ;;
		esac
		case $way in '' | /*) ;; *) way=${link%/*}/$way ;; esac
		said=${said%%>*}
		said=${said%"
"}
		[ -z "$said" ] || printf '%s\n' "$said"
		links=$((links - 1))
	done
}

# weights_of PATH FILES: the facts of weights. Only files and folders are opened. FILES: those with a known sha256, one a
# line.
weights_of() {
	section weights
	if size=$(stat -L -c '%s %F' "$1" 2>&1); then echo "$size|$1"; else
		case $size in *'Permission denied') echo "- hidden|$1" ;; *) echo "- missing|$1" ;; esac
	fi
	[ -f "$1" ] || [ -d "$1" ] || return 0
	seen="$(stamp "$1")|$1"
	section stamps
	printf '%s\n' "$seen"
	# With SELinux enforced, Docker may confine containers by labels.
	enforced=''
	[ ! -e /sys/fs/selinux/enforce ] || read -r enforced </sys/fs/selinux/enforce
	if [ "$enforced" = 1 ]; then
		section labels
		echo "$(stat -L -c %C "$1" 2>/dev/null)|$1"
	fi
	section stamped
	[ -z "$2" ] || printf '%s\n' "$2" | grep . | tr '\n' '\0' | xargs -0 -r stat -L -c '%s %.9Y %n' 2>/dev/null
	case "
$SEEN
" in *"
$seen
"*) return ;; esac
	section headers
	have python3 && printf '%s\n' "$1" | python3 -c "$READER" | head -c 1000000 | grep '^{'
}

# The same as a user (snapshot_weights), with the other users who can change them.
inspect_weights() {
	section owned
	spots_of "$1" | while IFS= read -r spot; do printf '%s|%s\n' "$spot" "$1"; done
	weights_of "$1" "$2"
	section end
}

# key_of MODEL LABEL: the model's key in compose.yaml, whose files its container mounts: MODEL or MODEL.2, by Compose's label.
key_of() {
	case $2 in "$1" | "$1".*[!0-9]*) echo "$1" ;; "$1".?*) echo "$2" ;; *) echo "$1" ;; esac
}

# The header with the key in a file, as curl's configuration has it. Only a key with unusual characters needs programs.
bearer() {
	[ -f "$1" ] || return 0
	secret=''
	while IFS= read -r line || [ -n "$line" ]; do secret=$secret$line; done <"$1"
	case $secret in *[!A-Za-z0-9._~+/=-]*)
		secret=$(head -c 65536 "$1" | tr -d '\000-\037\177' | sed 's/[\\"]/\\&/g')
		;;
	esac
	printf 'header = "Authorization: Bearer %s"\n' "$secret"
}

# ask KEY_FILE URL OPTION…: a model's answer. printf is a builtin, so the key is in no process's arguments.
ask() {
	key=$1 url=$2
	shift 2
	bearer "$key" | curl -q -g -K - -sS --proto =http,https --noproxy '*' --max-time 5 "$@" --url "$url" 2>&1
}

# The facts of the daemon by its socket, in one program. It fails, and prints nothing, for anything unusual: then the CLI is
# asked.
docker_by_socket() {
	have python3 && [ -S "${DOCKER_HOST#unix://}" ] || return 1
	{
		printf '%s\n' "$MARK"
		# shellcheck disable=SC2086 # one line of the models' names, which have no blanks
		printf '%s ' $LOGS
		printf '\n%s\n' "$IMAGES"
	} | python3 -I -S -c "$SOCKET" "${DOCKER_HOST#unix://}" "$work/running" gpurack.model "$ABOUT_GPUS"
}

# The same by Docker's CLI.
docker_by_cli() {
	section docker
	docker info --format '{{json .}}' 2>/dev/null | grep '^{'
	section containers
	ids=$(docker ps -aq --no-trunc 2>/dev/null) || return 1 # no daemon, which would be asked five times more
	all=''
	[ -z "$ids" ] || all=$(docker inspect --type container --format '{"id":{{json .Id}},"name":{{json .Name}},"image":{{json .Image}},"state":{{json .State}},"labels":{{json .Config.Labels}},"ports":{{json .HostConfig.PortBindings}},"restarts":{{json .RestartCount}}}' $ids 2>/dev/null | grep '^{')
	printf '%s\n' "$all"
	section digests
	used=$(printf '%s\n' "$all" | sed -n 's/.*"image":"\(sha256:[0-9a-f]*\)","state".*/\1/p' | sort -u)
	[ -z "$used" ] || docker image inspect --format '{{.Id}}|{{json .RepoDigests}}' $used 2>/dev/null
	section images
	printf '%s\n' "$IMAGES" | while IFS= read -r image; do
		[ -n "$image" ] && echo "$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || echo -)|$image"
	done
	# A hanging model is not "no change", nor is one that restarts without end and only looked up for a moment.
	up=$(docker ps -q --no-trunc --filter label=gpurack.model --filter status=running --filter status=restarting 2>/dev/null)
	[ -z "$up" ] || docker inspect --type container --format '{{.Name}}|{{.State.Status}}|{{index .Config.Labels "com.docker.compose.service"}}|{{range $port, $all := .HostConfig.PortBindings}}{{range $all}}{{$port}};{{.HostIp}};{{.HostPort}} {{end}}{{end}}|{{.State.StartedAt}}' $up >"$work/running" 2>/dev/null
}

snapshot_docker() {
	have docker || return 0
	docker_by_socket || docker_by_cli || return 0
	section accounts # the volumes of Open WebUIs whose database has one
	printf '%s\n' "$VOLUMES" | while IFS= read -r volume; do
		[ -n "$volume" ] && place=$(docker volume inspect --format '{{.Mountpoint}}' "$volume" 2>/dev/null) || continue
		TMPDIR=$work timeout -s KILL 5 python3 -c "$HAS_ACCOUNT" "$place" </dev/null && echo "$volume"
	done
	have curl && [ -s "$work/running" ] || return 0
	{
		while IFS='|' read -r name status label bindings started; do
			while IFS='|' read -r model target path address port; do
				case $name in "/$model" | "/$model.previous") ;; *) continue ;; esac
				key=$(key_of "$model" "$label")
				# an old container serves until its successor starts
				[ "$name" = "/$model" ] || [ "$key" = "$label" ] || continue
				snapshot_model >"$work/model.${name#/}"
			done <<-EOF &
			$PROBES
			EOF
		done
		wait
	} <"$work/running"
	cat "$work"/model.* 2>/dev/null
}

# A model is asked at its container's published port. A stopped one is not asked: another process on its port would
# receive its key.
snapshot_model() {
	if [ "$status" = running ] && url=$(published) && [ -n "$url" ]; then
		body=$(ask "$SECRETS/$key/api_key" "$url$path" -w '\n%{http_code}' | tail -c 100000 | base64 -w 0)
	else
		body=$(printf 'its container is %s\n000' "$status" | base64 -w 0)
		url=''
	fi
	section "probe $model"
	printf '%s\n' "$body"
	[ -n "$url" ] || return 0
	case "
$LOGS
" in *"
$model
"*) snapshot_log ;; esac
	[ -z "$COUNTERS" ] || printf '%s\n' "$COUNTERS" | while IFS='|' read -r name path counter; do
		[ "$name" = "$model" ] || continue
		section "counter $model"
		ask "$SECRETS/$key/api_key" "$url$path" | head -c 4000000 | grep "^${counter}[{ ]"
	done
}

ABOUT_GPUS='ggml_cuda_init: |inference compute|^([0-9.]+ )?([A-Z] )?[A-Za-z0-9_]+: +(using device |layer +[0-9]+ assigned to device |layer +[0-9]+: dev = )?CUDA[0-9]|msg="[^"]*" device=CUDA[0-9]|NVIDIA driver too old|no usable GPU found|not compiled with GPU|no CUDA devices found|no compatible GPUs|DriverError\(CUDA_ERROR_|Starting [A-Za-z0-9_]+ model on C(pu|uda)|offloaded [0-9]+/[0-9]+ layers to GPU'

# What a model's log says of its GPUs since its start: no other lines, as they may be its users'. docker_socket.py has
# read it, except where the CLI was asked.
snapshot_log() {
	section "cuda $model"
	if [ -f "$work/log.${name#/}" ]; then
		IFS= read -r said <"$work/log.${name#/}"
		echo "$said"
		return
	fi
	timeout -s KILL 5 docker logs --since "$started" "${name#/}" 2>&1 | head -c 1000000 |
		grep -aE "$ABOUT_GPUS" | cut -c 1-300 | awk '
			NR <= 20 { print; next }
			{ last[NR % 20] = $0 }
			END { for (n = NR > 40 ? NR - 19 : 21; n <= NR; n++) print last[n % 20] }' | base64 -w 0
	echo
}

# http://ADDRESS:PORT by the container's own bindings, validated as an address and a number; in the host's
# network, which has no bindings, by the inventory.
published() {
	for binding in $bindings; do
		case $binding in "$target/tcp;"*) ;; *) continue ;; esac
		port=${binding##*;} address=${binding#*;}
		address=${address%;*}
		break
	done
	[ "$address" != lan ] || address=$(own_address)
	case $address in
	'' | 0.0.0.0) address=127.0.0.1 ;;
	::) address='[::1]' ;;
	*[!0-9a-fA-F:.]*) return 1 ;;
	*:*) address="[$address]" ;;
	*[!0-9.]*) return 1 ;;
	esac
	case $port in '' | *[!0-9]*) return 1 ;; esac
	echo "http://$address:$port"
}

# Other hosts that services connect to. One that is down costs two seconds, in parallel to the rest.
snapshot_upstreams() {
	have curl && [ -n "$UPSTREAMS" ] || return 0
	section upstreams
	printf '%s\n' "$UPSTREAMS" | {
		while IFS='|' read -r service number key url; do
			[ -n "$url" ] || continue
			{
				label=$(docker inspect --type container --format '{{index .Config.Labels "com.docker.compose.service"}}' "$service" 2>/dev/null)
				folder=${key%"/$service/"*}
				[ "$folder" = "$key" ] || key=$folder/$(key_of "$service" "$label")/${key##*/}
				said=$(ask "$key" "$url" --connect-timeout 2 -o /dev/null -w '|%{http_code}' | tr '\n' ' ')
				echo "$service|$number|${said##*|}|${said%|*}"
			} &
		done
		wait
	}
}

own_file() { [ -f "$1" ] && echo "$1 $(stat -L -c '%a %u %g' "$1") $(base64 -w 0 "$1")"; }

# The facts from a user's own programs, files and Docker. It runs as that user; none of it counts as root's observation.
snapshot_own() {
	work=$(mktemp -d) || exit 1
	trap 'rm -rf "$work"' EXIT
	section own
	[ -S "$XDG_RUNTIME_DIR/bus" ] &&
		echo "unit $(systemctl --user show docker.service -p LoadState,ActiveState,UnitFileState | tr '\n' ' ')"
	# rootlesskit shows its child the entries of /etc and /run that were there when it began
	child=$(tr -dc 0-9 <"$XDG_RUNTIME_DIR/dockerd-rootless/child_pid")
	for folder in /etc/cdi /run/cdi; do
		[ -n "$child" ] && [ -d "/proc/$child/root$folder" ] && [ ! -L "/proc/$child/root$folder" ] && echo "sees $folder"
	done
	printf '%s\n' "$WEIGHTS" | while IFS= read -r path; do
		[ -n "$path" ] && [ ! -r "$path" ] && echo "unreadable $path"
	done
	section files
	for file in $HOME_FILES; do own_file "$HOME/$file"; done
	own_file "$XDG_RUNTIME_DIR/$USER_MARKER"
	[ -S "$XDG_RUNTIME_DIR/docker.sock" ] && snapshot_docker
	snapshot_upstreams
	section end
}
