#!/bin/bash
# Runs one server for real use from the folder data/, made on the first run:
# configuration with fresh secrets, keys, store.
# Usage: scripts/run.sh BINARY [SERVER_NAME]; a server's name can't be changed later.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=$1
name=${2:-}
config=data/causeway.toml

# The value of a top-level key of the configuration.
configured() {
    sed -n "/^\\[/q; s/^$1 = \"\\(.*\\)\"\$/\\1/p" "$config"
}

if [ ! -f "$config" ]; then
    mkdir -p data
    chmod 700 data
    (umask 077 && "$binary" generate-config --server-name "${name:-localhost}" --data-folder store --registration-token >"$config.new")
    mv "$config.new" "$config"
    echo "Wrote $config: read it, every key is explained there."
fi
own=$(configured server_name)
if [ -n "$name" ] && [ "$name" != "$own" ]; then
    echo "data/ belongs to the server $own, which can't be called $name: a server keeps its name." >&2
    echo "Leave SERVER_NAME out to run it, or move data/ away to begin another." >&2
    exit 1
fi
folder=$(configured data_folder)
case $folder in
/*) ;;
*) folder=data/$folder ;;
esac

# The server takes the place of this process, so its number is known: what it
# says under that number, it says after it has opened its listeners.
tell_when_open() {
    local addresses=$folder/listeners.json
    while kill -0 $$ 2>/dev/null; do
        if grep -q "\"pid\":$$[,}]" "$addresses" 2>/dev/null; then
            grep -o '"url":"[^"]*"' "$addresses" | cut -d '"' -f 4 |
                sed 's/^/Log in or register with any Matrix client at /'
            sed -n 's/^tokens = \["\(.*\)"\]$/The registration token is \1/p' "$config"
            return
        fi
        sleep 0.1
    done
}
(tell_when_open &)
exec "$binary" serve --config "$config"
