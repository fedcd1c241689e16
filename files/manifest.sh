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

find /etc/apt /etc/yum.repos.d /etc/dnf /etc/docker/daemon.json /etc/containerd/config.toml /etc/systemd/system \
	/etc/nvidia-container-runtime /etc/nvidia-container-toolkit /etc/modprobe.d /etc/modules-load.d /etc/sysctl.d \
	/etc/subuid /etc/subgid /usr/local/lib/gpurack /var/lib/systemd/linger /home/*/.config/docker/daemon.json \
	/home/*/.config/systemd ! -type d ! -name '*.pyc' ! -name '*~' ! -name 'versionlock.[lt]*' 2>/dev/null | while IFS= read -r file; do
	if [ -L "$file" ]; then
		echo "link $file $(readlink "$file")"
	else
		echo "file $file $(stat -c '%a %U %G' "$file") $(sha256sum <"$file" | cut -d ' ' -f 1)"
	fi
done

systemctl list-unit-files --no-legend --no-pager --state=enabled,masked | sed -E 's/^([^ ]+) +([^ ]+).*/unit \1 \2/'
