#!/bin/bash
# Runs one server for real use from the folder data/, made on the first run:
# configuration with fresh secrets, keys, store. Usage: scripts/run.sh BINARY SERVER_NAME
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$1
name=$2
config=data/causeway.toml

if [ ! -f "$config" ]; then
    mkdir -p data
    chmod 700 data
    (umask 077 && "$binary" generate-config --server-name "$name" --data-folder store --registration-token >"$config.new")
    mv "$config.new" "$config"
    echo "Wrote $config: read it, every key is explained there."
fi
echo "Log in or register with any Matrix client at http://127.0.0.1:8008"
sed -n 's/^tokens = \["\(.*\)"\]$/The registration token is \1/p' "$config"
exec "$binary" serve --config "$config"
