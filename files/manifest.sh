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

# CDI specs (/etc/cdi) are left out: they name cards by UUID and devices by number, which a rebuilt host has anew.
{
	find /etc/apt /etc/yum.repos.d /etc/dnf /etc/yum.conf /etc/pki/rpm-gpg/gpurack-* /etc/docker/daemon.json \
		/etc/containerd/config.toml /etc/systemd/system /etc/nvidia-container-runtime /etc/nvidia-container-toolkit \
		/etc/modprobe.d /etc/modules-load.d /etc/sysctl.d /etc/tmpfiles.d/gpurack* /etc/apparmor.d/gpurack-* \
		/usr/local/share/ca-certificates/gpurack-*.crt /etc/pki/ca-trust/source/anchors/gpurack-*.crt \
		/etc/subuid /etc/subgid /usr/local/lib/gpurack /usr/local/libexec/gpurack /var/lib/systemd/linger \
		! -type d ! -name '*.pyc' ! -name '*~' ! -name 'versionlock.[lt]*'
	# Of users all that are in /home, and those elsewhere that have a Docker of gpurack's.
	{
		printf '%s\n' /home/*
		for user in /var/lib/gpurack/users/*; do
			getent passwd "${user##*/}" | cut -d : -f 6
		done
	} | while IFS= read -r home; do
		find "$home/.config/docker/daemon.json" "$home/.config/systemd" "$home/.config/nvidia-container-runtime" \
			! -type d ! -name '*~'
	done
	# Engines' configuration lies beside their keys, of which nothing is told.
	find /etc/gpurack/secrets /var/lib/gpurack/users/*/secrets -type f \
		'(' -name '*.yaml' -o -name '*.json' -o -name '*.py' ')'
} 2>/dev/null | while IFS= read -r file; do
	case $file in
	/etc/apt/auth.conf | /etc/apt/auth.conf.d/*) # passwords, which a hash would help to guess
		echo "secret $file $(stat -c '%a uid %u' "$file")"
		continue
		;;
	esac
	if [ -L "$file" ]; then
		echo "link $file $(readlink "$file")"
	else
		echo "file $file $(stat -c '%a %U %G' "$file") $(sha256sum <"$file" | cut -d ' ' -f 1)"
	fi
done

# A job's definition, without the cards that it was given.
for file in /etc/gpurack/jobs/*.yaml; do
	[ -f "$file" ] && echo "job $file $(sed 's/GPU-[0-9A-Za-z-]*/GPU/g' "$file" | sha256sum | cut -d ' ' -f 1)"
done

systemctl list-unit-files --no-legend --no-pager --state=enabled,masked | sed -E 's/^([^ ]+) +([^ ]+).*/unit \1 \2/'
