# What defines a host beside what the look (snapshot.sh) sees: all packages, the files that decide how Docker, the cards
# and the models run, and the units that start at boot. Read only; runs as root. A line for each fact, for
# gpurack/locking/manifest.py; of versionlock its list without the dates in its file. POSIX sh and coreutils only.

export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

if command -v dpkg-query >/dev/null; then
	dpkg-query -W -f '${db:Status-Abbrev}|${binary:Package}|${Version}\n' |
		sed -n 's/^h\(.\) *|\([^|]*\)|\(.*\)/package \2 \3 held/p; s/^i\(.\) *|\([^|]*\)|\(.*\)/package \2 \3/p'
else
	dnf -q versionlock list 2>/dev/null | sed 's/^/versionlock /'
	rpm -qa --qf 'package %{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}\n'
fi

# Files, named on standard input, a line each.
# shellcheck disable=SC2016 # it is told to other shells, too
describe='
while IFS= read -r file; do
	case $file in
	/etc/apt/auth.conf | /etc/apt/auth.conf.d/*) # passwords, which a hash would help to guess
		echo "secret $file $(stat -c "%a uid %u" "$file")"
		continue
		;;
	esac
	if [ -L "$file" ]; then
		echo "link $file $(readlink "$file")"
	elif [ -f "$file" ]; then
		digest=$(sha256sum <"$file")
		echo "file $file $(stat -c "%a %U %G" "$file") ${digest%% *}"
	fi
done'

# CDI specs (/etc/cdi) are left out: they name cards by UUID and devices by number, which a rebuilt host has anew.
{
	find /etc/apt /etc/yum.repos.d /etc/dnf /etc/yum.conf /etc/pki/rpm-gpg/gpurack-* /etc/docker/daemon.json \
		/etc/containerd/config.toml /etc/systemd/system /etc/nvidia-container-runtime /etc/nvidia-container-toolkit \
		/etc/modprobe.d /etc/modules-load.d /etc/sysctl.d /etc/tmpfiles.d/gpurack* /etc/apparmor.d/gpurack-* \
		/usr/local/share/ca-certificates/gpurack-*.crt /etc/pki/ca-trust/source/anchors/gpurack-*.crt \
		/etc/subuid /etc/subgid /usr/local/lib/gpurack /usr/local/libexec/gpurack /var/lib/systemd/linger \
		! -type d ! -name '*.pyc' ! -name '*~' ! -name 'versionlock.[lt]*'
	# Engines' configuration lies beside their keys, of which nothing is told.
	find /etc/gpurack/secrets /var/lib/gpurack/users/*/secrets -type f \
		'(' -name '*.yaml' -o -name '*.json' -o -name '*.py' ')'
} 2>/dev/null | sh -c "$describe"

# Of users all that are in /home, and those elsewhere that have a Docker of gpurack's. It is the user who looks: root
# follows no links out of a home. A name there may hold a newline, so only lines about that home count. What a user's
# process leaves behind can hold a file open, but not a pipe that is read to its end.
limit=20
said=$(mktemp) || exit 1
trap 'rm -f "$said"' EXIT
{
	for home in /home/*; do
		[ -d "$home" ] && [ ! -L "$home" ] && echo "$(stat -c '%u %g' "$home") $home"
	done
	for user in /var/lib/gpurack/users/*; do
		getent passwd "${user##*/}" | cut -d : -f 3,4,6 --output-delimiter ' '
	done
} 2>/dev/null | sort -u | while read -r uid gid home; do
	# shellcheck disable=SC2016 # that user's shell expands it
	(
		ulimit -f 2048
		timeout -s KILL "$limit" setpriv --reuid "$uid" --regid "$gid" --clear-groups env -i LC_ALL=C PATH="$PATH" \
			sh -c 'find "$1/.config/docker/daemon.json" "$1/.config/systemd" "$1/.config/nvidia-container-runtime" \
				! -type d ! -name "*~" | sh -c "$2"' sh "$home" "$describe" </dev/null >"$said"
		exit "$?" # this shell, whose errors are not shown, says "Killed"
	) 2>/dev/null
	[ "$?" != 137 ] || echo "unread $home/.config: no end in $limit s"
	head -c 1000000 "$said" | awk -v place="$home/.config/" '{ at = index($0, " " place) } at == 5'
done

# A job's definition, without the cards that it was given.
for file in /etc/gpurack/jobs/*.yaml; do
	[ -f "$file" ] && echo "job $file $(sed 's/GPU-[0-9A-Za-z-]*/GPU/g' "$file" | sha256sum | cut -d ' ' -f 1)"
done

systemctl list-unit-files --no-legend --no-pager --state=enabled,masked | sed -E 's/^([^ ]+) +([^ ]+).*/unit \1 \2/'
