#!/bin/bash
# Makes the Python environment of the interop tests (matrix-nio, unmodified,
# from PyPI) in FOLDER, unless it is there already in the wanted versions.
# Usage: scripts/interop-venv.sh FOLDER
set -euo pipefail

folder=${1:?usage: interop-venv.sh FOLDER}
wanted=$(dirname "$(readlink -f "$0")")/../tests/interop/requirements.txt
stamp=$folder/requirements.txt

if [ -f "$stamp" ] && cmp -s "$stamp" "$wanted" && "$folder/bin/python" -c 'import nio' 2>/dev/null; then
    exit 0
fi
echo "causeway: installing matrix-nio into $folder"
rm -rf "$folder"
python3 -m venv "$folder"
if ! "$folder/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"; then
    echo "causeway: could not install $(tr '\n' ' ' <"$wanted")from PyPI" >&2
    exit 1
fi
cp "$wanted" "$stamp"
