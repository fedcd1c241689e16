# What defines a host, besides the facts of its snapshot (snapshot.sh): all packages, the files that configure Docker, GPUs
# and models, and the units that start at boot. Read only; runs as root. Prints one line per fact, for
# gpurack/locking/manifest.py; the list of versionlock without its dates. POSIX sh and coreutils only.

export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

if command -v dpkg-query >/dev/null; then
	dpkg-query -W -f '${db:Status-Abbrev}|${binary:Package}|${Version}\n' |
		sed -n 's/^h\(.\) *|\([^|]*\)|\(.*\)/package \2 \3 held/p; s/^i\(.\) *|\([^|]*\)|\(.*\)/package \2 \3/p'
else
	dnf -q versionlock list 2>/dev/null | sed 's/^/versionlock /'
	rpm -qa --qf 'package %{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\n'
fi

# Print the sha256 and path of the files on standard input, one a line.
# shellcheck disable=SC2016 # other shells expand it
describe='
while IFS= read -r file; do
	case $file in
	/etc/apt/auth.conf | /etc/apt/auth.conf.d/*) # passwords: a hash would help to guess them
		echo "secret $file $(stat -c "%a uid %u" "$file")"
		continue
		;;
	esac
	if [ -L "$file" ]; then
		echo "link $file $(readlink "$file")"
	elif [ -f "$file" ]; then
		digest=$(head -c 64000000 "$file" | sha256sum) # a user can make a key of any size
		echo "file $file $(stat -c "%a %U %G" "$file") ${digest%% *}"
	fi
done'

# CDI specs (/etc/cdi) are left out: they contain UUIDs and device numbers, which differ on a rebuilt host.
{
	find /etc/apt /etc/yum.repos.d /etc/dnf /etc/yum.conf /etc/pki/rpm-gpg/gpurack-* /etc/docker/daemon.json \
		/etc/containerd/config.toml /etc/systemd/system /etc/nvidia-container-runtime /etc/nvidia-container-toolkit \
		/etc/modprobe.d /etc/modules-load.d /etc/sysctl.d /etc/tmpfiles.d/gpurack* /etc/apparmor.d/gpurack-* \
		/usr/local/share/ca-certificates/gpurack-*.crt /etc/pki/ca-trust/source/anchors/gpurack-*.crt \
		/etc/subuid /etc/subgid /usr/local/lib/gpurack /usr/local/libexec/gpurack /var/lib/systemd/linger \
		! -type d ! -name '*.pyc' ! -name '*~' ! -name 'versionlock.[lt]*'
	# Engines' configuration is in the folder of their keys, which are left out.
	find /etc/gpurack/secrets /var/lib/gpurack/users/*/secrets -type f \
		'(' -name '*.yaml' -o -name '*.json' -o -name '*.py' ')'
} 2>/dev/null | sh -c "$describe"

# Files in homes: of all users in /home, and of users elsewhere with a rootless Docker of gpurack. Each user's own process
# reads them, because root follows no links out of a home. A name there may contain a newline, so only lines about that
# home count. The output goes to a file: a process that a user leaves behind would keep a pipe from ending.
limit=20
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# within FILE COMMAND…: what a command prints within the limit; code 137 after it. What its process leaves behind (it
# waits for a file server) can hold a file open, but not a pipe that is read to its end.
within() (
	file=$1
	shift
	timeout -s KILL "$limit" "$@" </dev/null >"$file"
	exit "$?" # this shell, whose errors are not shown, says "Killed"
) 2>/dev/null

# read_home NUMBER UID GID HOME: both ids are "-" where the home's owner is asked.
read_home() {
	said=$work/$1 uid=$2 gid=$3 home=$4
	if [ "$uid" = - ]; then
		within "$said" stat -c '%u %g %F' "$home"
		[ "$?" != 137 ] || echo "unread $home: no end in $limit s"
		read -r uid gid kind <"$said" && [ "$kind" = directory ] || return 0
	fi
	# shellcheck disable=SC2016 # that user's shell expands it
	(
		ulimit -f 2048
		within "$said" setpriv --reuid "$uid" --regid "$gid" --clear-groups env -i LC_ALL=C PATH="$PATH" \
			sh -c 'find "$1/.config/docker/daemon.json" "$1/.config/systemd" "$1/.config/nvidia-container-runtime" \
				! -type d ! -name "*~" | sh -c "$2"' sh "$home" "$describe"
	)
	[ "$?" != 137 ] || echo "unread $home/.config: no end in $limit s"
	head -c 1000000 "$said" | awk -v place="$home/.config/" '{ at = index($0, " " place) } at == 5'
}

for user in /var/lib/gpurack/users/*; do
	getent passwd "${user##*/}" | cut -d : -f 3,4,6 --output-delimiter ' '
done >"$work/homes" 2>/dev/null
within "$work/names" ls /home/
[ "$?" != 137 ] || echo "unread /home: no end in $limit s"
while IFS= read -r home; do
	home=/home/$home
	cut -d ' ' -f 3- "$work/homes" | grep -qxF -e "$home" || echo "- - $home" >>"$work/homes"
done <"$work/names"
# side by side, so that many homes of a dead file server cost one limit
number=0
while read -r uid gid home; do
	number=$((number + 1))
	read_home "$number" "$uid" "$gid" "$home" >"$work/$number.told" 2>/dev/null &
	[ $((number % 32)) != 0 ] || wait
done <"$work/homes"
wait
cat "$work"/*.told 2>/dev/null

# The definition of a job, without its GPUs.
for file in /etc/gpurack/jobs/*.yaml; do
	[ -f "$file" ] && echo "job $file $(sed 's/GPU-[0-9A-Za-z-]*/GPU/g' "$file" | sha256sum | cut -d ' ' -f 1)"
done

systemctl list-unit-files --no-legend --no-pager --state=enabled,masked | sed -E 's/^([^ ]+) +([^ ]+).*/unit \1 \2/'
