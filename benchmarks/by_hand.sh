# The end state of inventories/demo.py on a fresh gpu1, as an admin would write it for one host: no checks, no way back.
# benchmarks/fresh.py sets REGISTRY, IMAGE, TOOLKIT_URL, KEY, ALPHA and BETA, and runs it as root by `sh -s`.
set -eu
export DEBIAN_FRONTEND=noninteractive

mkdir -p /etc/apt/keyrings /etc/docker /srv/weights
apt-get -q update
apt-get -q -y --no-install-recommends install ca-certificates curl python3 docker.io docker-cli docker-compose apparmor
printf '%s\n' "$KEY" > /etc/apt/keyrings/nvidia.asc
echo "deb [signed-by=/etc/apt/keyrings/nvidia.asc] $TOOLKIT_URL/stable/deb/amd64 /" > /etc/apt/sources.list.d/nvidia.list
apt-get -q update
apt-get -q -y --no-install-recommends install nvidia-container-toolkit=1.20.1-1 nvidia-container-toolkit-base=1.20.1-1 \
    libnvidia-container-tools=1.20.1-1 libnvidia-container1=1.20.1-1
cat > /etc/docker/daemon.json <<END
{"live-restore": true, "log-driver": "local", "features": {"cdi": true}, "insecure-registries": ["$REGISTRY"]}
END
systemctl restart docker
systemctl enable -q docker

curl -sSf -o /srv/weights/alpha.gguf "$ALPHA" &
curl -sSf -o /srv/weights/beta.gguf "$BETA" &
docker pull -q "$IMAGE"
wait

# serve NAME PORT GPU…
serve() {
    name=$1 port=$2
    shift 2
    cards=
    for gpu; do cards="$cards --device nvidia.com/gpu=$gpu"; done
    # shellcheck disable=SC2086
    docker run -d --name "$name" --restart unless-stopped -p "127.0.0.1:$port:8080" $cards \
        -v "/srv/weights/$name.gguf:/weights/$name.gguf:ro" --security-opt no-new-privileges:true \
        "$IMAGE" --model "/weights/$name.gguf" --alias "$name" --host 0.0.0.0 --port 8080 --n-gpu-layers 999
}
serve alpha 8000 0
serve beta 8001 1 2
for port in 8000 8001; do
    until curl -sSf "http://localhost:$port/v1/models" >/dev/null 2>&1; do sleep 0.1; done
done
