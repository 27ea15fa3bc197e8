#!/bin/bash
# Makes the Python environment of the interop tests (matrix-nio, matrix-commander
# and Synapse, unmodified, from PyPI, as wheels: nothing is compiled) in FOLDER,
# unless it is there already in the wanted versions. Ends after twenty minutes at
# the latest.
# Usage: scripts/interop-venv.sh FOLDER
set -euo pipefail

folder=${1:?usage: interop-venv.sh FOLDER}
lists=$(dirname "$(readlink -f "$0")")/../tests/interop
wanted=$(cat "$lists/requirements.txt" "$lists/requirements-alone.txt")
stamp=$folder/requirements.txt

# Tests that run at the same time may all want it.
mkdir -p "$(dirname "$folder")"
exec 9>"$folder.lock"
flock 9
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$folder/bin/python" -c 'import mautrix, nio, synapse' 2>/dev/null; then
    exit 0
fi
versions=$(grep -v '^#' <<<"$wanted" | tr '\n' ' ')
echo "causeway: installing ${versions}into $folder"
rm -rf "$folder"
python3 -m venv "$folder"
install() {
    timeout 600 "$folder/bin/pip" install --quiet --disable-pip-version-check --no-compile --only-binary :all: "$@"
}
if ! install -r "$lists/requirements.txt" || ! install --no-deps -r "$lists/requirements-alone.txt"; then
    echo "causeway: could not install ${versions}from PyPI" >&2
    exit 1
fi
echo "$wanted" >"$stamp"
