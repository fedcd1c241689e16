# The second half of check.py's program, for root: a model of llama.cpp on a GPU, in a container as gpurack runs it.
#
# $1: where its results go. $2: the folder of bring.py, if the machine has no Docker; then Docker runs in a root of its
# own, and llama.cpp is compiled for the machine's GPU. Else IMAGE and MODEL name an image with llama-server and a model,
# and the CDI specs are the toolkit's. check.py writes the functions `listing` and `serve` before, in gpurack's words.
set -u
trap 'exit 1' TERM # so that what follows EXIT is done when the time is up
out=$1 brought=${2-} name=gpurack-device
uuid=$(nvidia-smi --query-gpu=uuid --format=csv,noheader | head -n 1)

# step NAME COMMAND…: its output goes to $out/NAME, how it ended to $out/steps. The first that fails ends the program.
step() {
	step=$1
	shift
	"$@" >"$out/$step" 2>&1
	code=$?
	echo "$step $code $(date +%s)" >>"$out/steps"
	[ "$code" = 0 ] || exit 1
}

# --- Docker and the image, where the machine has none ----------------------------------------------------------------
in_root() { chroot "$root" "$@"; }

# llama.cpp's server for this GPU. Without FlashAttention's kernels, which are most of the compiling.
compile() {
	mkdir -p "$work/source" && tar -xJf "$brought/source.tar.xz" -C "$work/source" || return
	cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
	cmake -S "$work/source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
		-DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$cap" -DGGML_CUDA_FA=OFF -DGGML_CUDA_NCCL=OFF -DGGML_NATIVE=OFF \
		-DCMAKE_CUDA_RUNTIME_LIBRARY=Static -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_TESTS=OFF \
		-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF || return
	timeout 330 cmake --build "$work/build" --target llama-server
}

# A root with Debian's Docker, in memory. Its mounts end with this program's own mount namespace.
make_root() {
	mount -t tmpfs -o mode=755 gpurack "$root" && tar -xJf "$brought/root.tar.xz" -C "$root" || return
	for folder in proc sys dev; do
		mkdir -p "$root/$folder" && mount --rbind "/$folder" "$root/$folder" || return
	done
	mkdir -p "$root/run" "$root/tmp" "$root/etc/cdi" "$root/driver" "$root/model"
	cp "$brought/alpha.gguf" "$root/model/"
}

# The driver's libraries and the cuBLAS that llama.cpp was linked with, and a CDI spec that gives them with the nodes of
# all GPUs: what nvidia-ctk would do.
describe() {
	of_cuda=$(python3 -c 'import ctypes
ctypes.CDLL("libcuda.so.1")
print(next(line.split()[-1] for line in open("/proc/self/maps") if "libcuda.so" in line))') || return
	cp -L "${of_cuda%/*}"/libcuda.so* "${of_cuda%/*}"/libnvidia-*.so* "$root/driver/" || return
	ldd "$work/build/bin/llama-server" | sed -n 's|.* => \(/.*/libcu[a-z]*\.so[^ ]*\) .*|\1|p' | grep -v /libcuda.so |
		while read -r library; do cp -L "$library" "$root/driver/"; done
	{
		echo 'cdiVersion: 0.5.0'
		echo 'kind: nvidia.com/gpu'
		echo 'devices:'
		echo "- name: $uuid"
		echo '  containerEdits:'
		echo '    deviceNodes:'
		for node in /dev/nvidia[0-9]* /dev/nvidiactl /dev/nvidia-uvm /dev/nvidia-uvm-tools; do
			[ ! -c "$node" ] || echo "    - path: $node"
		done
		echo 'containerEdits:'
		echo '  env: [LD_LIBRARY_PATH=/driver]'
		echo '  mounts:'
		echo '  - {hostPath: /driver, containerPath: /driver, options: [ro, nosuid, nodev, rbind, rprivate]}'
	} >"$root/etc/cdi/nvidia.yaml"
}

start_docker() {
	chroot "$root" dockerd --data-root /docker --exec-root /run/docker --pidfile /run/docker.pid --storage-driver vfs \
		--bridge none --iptables=false --ip6tables=false --feature cdi=true >"$out/dockerd.log" 2>&1 &
	dockerd=$!
	timeout 60 sh -c 'until chroot "$1" docker info; do kill -0 "$2" && sleep 0.2 || exit 1; done' - "$root" "$dockerd"
}

make_image() {
	mkdir -p "$root/app" && cp "$work/build/bin/llama-server" "$root/app/" || return
	tar -C "$root" -c app bin lib lib64 usr/lib usr/bin/busybox |
		in_root docker import --change 'ENTRYPOINT ["/app/llama-server"]' - "$IMAGE"
}

if [ -n "$brought" ]; then
	work=$(mktemp -d) root=$(mktemp -d) IMAGE=gpurack-device:latest MODEL=/model/alpha.gguf dockerd=
	trap 'docker rm --force "$name" >/dev/null 2>&1; [ -z "$dockerd" ] || { kill "$dockerd"; wait; }; rm -rf "$work"
		umount -l "$root" && rmdir "$root"' EXIT
	docker() { in_root docker "$@"; }
	step root make_root
	step compile compile
	step cdi describe
	step docker start_docker
	step image make_image
else
	trap 'docker rm --force "$name" >/dev/null 2>&1' EXIT
fi

# --- the probe and a model --------------------------------------------------------------------------------------------
# As files/probing.py and compose.yaml, but on the host's network: this Docker may have no other.
answer() {
	timeout 90 python3 -c 'import json, sys, time, urllib.request
url, body = "http://127.0.0.1:" + sys.argv[1], {"messages": [{"role": "user", "content": "Who are you?"}]}
while True:
    try:
        urllib.request.urlopen(url + "/health", timeout=5)
        break
    except OSError:
        time.sleep(0.2)
asked = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(asked, timeout=30))["choices"][0]["message"]["content"])' "$PORT"
}
step listed listing
step container serve
step answer answer
step log docker logs "$name"
step serving timeout 240 sh "$out/snapshot.sh"
