# What one Docker says, and the models in it: a part of snapshot.sh. Root runs it for the host's own Docker, and a user
# for that user's (look_own), so that whatever is asked of a user's things is asked by that user.
# Variables: MARK (what headings hold), work (a folder), SECRETS (the folder of keys), IMAGES, PROBES
# (model|port inside|path|address|port), COUNTERS (model|path|name of a counter), UPSTREAMS (service|number|file of a
# key|url), VOLUMES (of an Open WebUI without a first account), HAS_ACCOUNT, SEEN and READER as in
# snapshot.sh; for a user also WEIGHTS and HOME_FILES.

# That of dash, which is sh on Debian and Ubuntu, makes a line of a "\n" in what is only a name.
echo() { printf '%s\n' "$*"; }
section() { printf '\n@@%s %s\n' "$MARK" "$1"; }
have() { command -v "$1" >/dev/null 2>&1; }
# That of the default route: addresses for documentation are in no other route (RFC 5737, RFC 3849).
own_address() {
	{ ip -4 -o route get 192.0.2.1; ip -6 -o route get 2001:db8::1; } 2>/dev/null |
		sed -n 's/.* src \([0-9a-f.:]*\).*/\1/p' | head -n 1
}

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

# spots_of PATH: who but root may change what a path means: type, mode, owner and group of each folder, link or file on
# it that others may change. Root's links are followed, one by one; the first thing that is not root's is the last line,
# and for root nothing beyond it is touched. None of their names are said: links lead to names of anybody's making.
spots_of() {
	way=$1 links=40 end='-quit' follow='-uid 0'
	[ "$(id -u)" = 0 ] || end='-true' follow='-true'
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
		[ -z "$said" ] || printf '%s\n' "$said"
		links=$((links - 1))
	done | grep .
}

# weights_of PATH FILES: what is to be known of weights. Nothing is opened but files and folders. FILES: those of which
# the sha256 is remembered, one a line.
weights_of() {
	section weights
	if size=$(stat -L -c '%s %F' "$1" 2>&1); then echo "$size|$1"; else
		case $size in *'Permission denied') echo "- hidden|$1" ;; *) echo "- missing|$1" ;; esac
	fi
	[ -f "$1" ] || [ -d "$1" ] || return 0
	seen="$(stamp "$1")|$1"
	section stamps
	printf '%s\n' "$seen"
	# Where SELinux is enforced, Docker may confine containers by labels.
	if [ "$(cat /sys/fs/selinux/enforce 2>/dev/null)" = 1 ]; then
		section labels
		echo "$(stat -L -c %C "$1" 2>/dev/null)|$1"
	fi
	section stamped
	printf '%s\n' "$2" | grep . | tr '\n' '\0' | xargs -0 -r stat -L -c '%s %.9Y %n' 2>/dev/null
	printf '%s\n' "$SEEN" | grep -qxF -e "$seen" && return
	section headers
	have python3 && printf '%s\n' "$1" | python3 -c "$READER" | head -c 1000000 | grep '^{'
}

# The same as a user (look_weights), with who else may change them.
inspect_weights() {
	section owned
	spots_of "$1" | while IFS= read -r spot; do printf '%s|%s\n' "$spot" "$1"; done
	weights_of "$1" "$2"
	section end
}

# ask KEY_FILE URL OPTION…: what a model answers. printf is a builtin: the key is in no process's arguments.
ask() {
	key=$1 url=$2
	shift 2
	{
		[ -f "$key" ] && printf 'header = "Authorization: Bearer %s"\n' \
			"$(head -c 65536 "$key" | tr -d '\000-\037\177' | sed 's/[\\"]/\\&/g')"
	} | curl -q -g -K - -sS --proto =http,https --noproxy '*' --max-time 5 "$@" --url "$url" 2>&1
}

look_docker() {
	have docker || return 0
	section docker
	docker info --format '{{json .}}' 2>/dev/null | grep '^{'
	section containers
	ids=$(docker ps -aq --no-trunc 2>/dev/null)
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
	section accounts # the volumes of Open WebUIs whose database has one
	printf '%s\n' "$VOLUMES" | while IFS= read -r volume; do
		[ -n "$volume" ] && place=$(docker volume inspect --format '{{.Mountpoint}}' "$volume" 2>/dev/null) || continue
		TMPDIR=$work timeout -s KILL 5 python3 -c "$HAS_ACCOUNT" "$place" </dev/null && echo "$volume"
	done
	have curl || return 0
	# A model that hangs is not "no change", nor is one that restarts for ever, which was up when it was looked at and is
	# not now.
	up=$(docker ps -q --no-trunc --filter label=gpurack.model --filter status=running --filter status=restarting 2>/dev/null)
	[ -n "$up" ] || return 0
	docker inspect --type container --format '{{.Name}}|{{.State.Status}}|{{range $port, $all := .HostConfig.PortBindings}}{{range $all}}{{$port}};{{.HostIp}};{{.HostPort}} {{end}}{{end}}' $up 2>/dev/null | {
		while IFS='|' read -r name status bindings; do
			printf '%s\n' "$PROBES" | while IFS='|' read -r model target path address port; do
				[ "/$model" = "$name" ] && look_model >"$work/model.$model"
			done &
		done
		wait
	}
	cat "$work"/model.* 2>/dev/null
}

# A model of the inventory is asked where its container is published. One that is down is not asked at all: whoever has
# its port then would get its key.
look_model() {
	if [ "$status" = running ] && url=$(published) && [ -n "$url" ]; then
		body=$(ask "$SECRETS/$model/api_key" "$url$path" -w '\n%{http_code}' | tr -d '\r' | tail -c 100000 | base64 -w 0)
	else
		body=$(printf 'its container is %s\n000' "$status" | base64 -w 0)
		url=''
	fi
	section "probe $model"
	printf '%s\n' "$body"
	[ -n "$url" ] || return 0
	printf '%s\n' "$COUNTERS" | while IFS='|' read -r name path counter; do
		[ "$name" = "$model" ] || continue
		section "counter $model"
		ask "$SECRETS/$model/api_key" "$url$path" | head -c 4000000 | grep "^${counter}[{ ]"
	done
}

# http://ADDRESS:PORT by the container's own bindings, as an address and a number and nothing else; for one in the
# host's network, which has none, by the inventory.
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

# What services connect to on other hosts. One that is down costs two seconds, beside all else.
look_upstreams() {
	have curl && [ -n "$UPSTREAMS" ] || return 0
	section upstreams
	printf '%s\n' "$UPSTREAMS" | {
		while IFS='|' read -r service number key url; do
			[ -n "$url" ] || continue
			{
				said=$(ask "$key" "$url" --connect-timeout 2 -o /dev/null -w '|%{http_code}' | tr '\n' ' ')
				echo "$service|$number|${said##*|}|${said%|*}"
			} &
		done
		wait
	}
}

own_file() { [ -f "$1" ] && echo "$1 $(stat -L -c '%a %u %g' "$1") $(base64 -w 0 "$1")"; }

# All that a user's own programs, files and Docker say. It runs as that user, and nothing of it is root's observation.
look_own() {
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
	own_file "$XDG_RUNTIME_DIR/gpurack-docker-restart"
	[ -S "$XDG_RUNTIME_DIR/docker.sock" ] && look_docker
	look_upstreams
	section end
}
