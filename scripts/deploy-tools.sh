#!/bin/bash
# Makes the folder of what the tests of deploy/ need, unless it is there already:
# nginx, Caddy and Prometheus from Debian's packages, unpacked and not installed (so
# that no service is started, and none that runs is touched), and a Python environment
# that knows the schemas of compose files and of Kubernetes; and `cargo deb`, compiled.
# Ends after half an hour at the latest.
# Usage: scripts/deploy-tools.sh FOLDER
set -euo pipefail

folder=${1:?usage: deploy-tools.sh FOLDER}
own=$(readlink -f "$0")
wanted=$(dirname "$own")/../tests/deploy/requirements.txt
stamp=$folder/stamp
packages=(nginx caddy prometheus)
cargo_deb=3.8.0

# Tests that run at the same time may all want it.
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
if cat "$own" "$wanted" | cmp -s - "$stamp"; then
    exit 0
fi
echo "causeway: unpacking ${packages[*]} into $folder"
rm -rf "$folder"
mkdir -p "$folder/packages"
download() {
    (cd "$folder/packages" && timeout 300 apt-get download -qq "${packages[@]}")
}
if ! download 2>/dev/null; then
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    "${as_root[@]}" apt-get update -q >/dev/null || echo "causeway: apt-get update failed, trying with what is known" >&2
    download || { echo "causeway: could not get ${packages[*]} from Debian" >&2; exit 1; }
fi
for package in "$folder"/packages/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
rm -r "$folder/packages"

versions=$(tr '\n' ' ' <"$wanted")
echo "causeway: installing ${versions}into $folder"
python3 -m venv "$folder/venv"
timeout 600 "$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile \
    --only-binary :all: -r "$wanted" \
    || { echo "causeway: could not install ${versions}from PyPI" >&2; exit 1; }

echo "causeway: compiling cargo-deb $cargo_deb into $folder"
# It is run a few times only, and quickly enough without being optimised.
CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$folder/build timeout 1200 "${CARGO:-cargo}" install --quiet --locked \
    --debug --root "$folder" --version "$cargo_deb" cargo-deb \
    || { echo "causeway: could not compile cargo-deb $cargo_deb from crates.io" >&2; exit 1; }
rm -rf "$folder/build"
cat "$own" "$wanted" >"$stamp"
