#!/bin/bash
# Installs a package of Causeway into a view of this machine's own system of which nothing
# outlives the trial (overlayfs, and namespaces for processes and the network), follows
# README.Debian, runs the server as its user, upgrades, removes and purges. Says each step
# before it is done, and ends with 1 at the first thing that is not as it must be; with 3
# where this machine allows no such views. Touches nothing outside FOLDER.
# Usage: tests/deploy/package.sh FILE.deb FOLDER
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    package=$(readlink -f "${1:?usage: package.sh FILE.deb FOLDER}")
    folder=$(readlink -f "${2:?usage: package.sh FILE.deb FOLDER}")
    own=$(readlink -f "$0")
    isolated=(unshare --mount --propagation private --net --pid --fork --kill-child)
    "${isolated[@]}" true 2>/dev/null || { echo "no namespaces for this user" >&2; exit 3; }
    exec "${isolated[@]}" "$own" --inside "$package" "$folder"
fi
package=$2 folder=$3

# ---- The view ----
mount -t tmpfs -o mode=0755 tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
root=$folder/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root" 2>/dev/null \
    || { echo "no overlayfs" >&2; exit 3; }
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for own in run tmp; do mount -t tmpfs tmpfs "$root/$own"; done
chmod 1777 "$root/tmp"
mkdir -p "$root/run/lock"
ip link set lo up
cp "$package" "$root/tmp/causeway.deb"

# ---- What is done in it ----
step() { echo "- $*"; }
must() { # what, command...
    local what=$1
    shift
    "$@" || { echo "not so: $what" >&2; exit 1; }
}
enter=(chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive)
in_it() { "${enter[@]}" "$@"; }
is() { # path, mode, user, group
    [ "$(in_it stat -c '%a %U %G' "$1" 2>&1)" = "$2 $3 $4" ] || { in_it stat -c '%n: %a %U %G' "$1"; return 1; }
}
gone() { ! in_it test -e "$1" -o -L "$1"; }
wants=/etc/systemd/system/multi-user.target.wants/causeway.service
config=/etc/causeway/causeway.toml
as_user=(setpriv --reuid causeway --regid causeway --clear-groups
    env "CAUSEWAY_CONFIG=$config" HOME=/var/lib/causeway)

serve() { # Until it answers; its process is $server.
    # As the unit has it: StateDirectory=, and nothing that it could not read.
    in_it install -d -m 0700 -o causeway -g causeway /var/lib/causeway
    "${enter[@]}" "${as_user[@]}" /usr/bin/causeway serve >>"$folder/log" 2>&1 &
    server=$!
    for _ in $(seq 300); do
        in_it causeway health --config "$config" >/dev/null 2>&1 && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.2
    done
    cat "$folder/log" >&2
    return 1
}
halt() { kill -TERM "$server" && wait "$server"; }

if in_it dpkg-query -W causeway >/dev/null 2>&1 || ! gone /etc/causeway; then
    echo "a package is installed here already" >&2
    exit 3
fi

step installs
in_it dpkg -i /tmp/causeway.deb
user=$(in_it getent passwd causeway)
must "its user has no shell: $user" grep -q '^causeway:.*:/var/lib/causeway:/usr/sbin/nologin$' <<<"$user"
must "the folder of the configuration" is /etc/causeway 750 root causeway
must "the program" is /usr/bin/causeway 755 root root
must "it is enabled" in_it test -L "$wants"
must "the unit is right" in_it systemd-analyze verify --man=no --recursive-errors=no causeway.service
must "nothing is configured" gone "$config"
for example in nginx/causeway.conf caddy/Caddyfile grafana/overview.json prometheus/alerts.yml; do
    must "$example" in_it test -s "/usr/share/doc/causeway/examples/$example"
done

step "is configured as README.Debian says"
# Its commands are what is indented; nobody can start units here.
in_it sed -n 's/^    //p' /usr/share/doc/causeway/README.Debian | grep -v '^systemctl start causeway$' >"$root/tmp/commands"
must "there are commands" test "$(wc -l <"$root/tmp/commands")" -ge 3
in_it sh -e /tmp/commands
must "others can't read the configuration" is "$config" 640 root causeway

step "is run as its user"
serve
must "its data are its own" is /var/lib/causeway 700 causeway causeway
must "it runs as its user" is "/proc/$server" 555 causeway causeway
must "administration as root" in_it causeway admin --config "$config" users list
halt

step "is upgraded"
echo 'CAUSEWAY_TELEMETRY__LOG=debug' >>"$root/etc/default/causeway"
before=$(sha256sum "$root$config")
in_it dpkg -i /tmp/causeway.deb
must "the configuration is as it was" test "$(sha256sum "$root$config")" = "$before"
must "the variables are as they were" grep -q '^CAUSEWAY_TELEMETRY__LOG=debug' "$root/etc/default/causeway"
serve
halt

step "is removed"
in_it dpkg --remove causeway
for path in /usr/bin/causeway /usr/lib/systemd/system/causeway.service /usr/lib/sysusers.d/causeway.conf; do
    must "$path is gone" gone "$path"
done
must "the configuration stays" in_it test -s "$config"
must "the variables stay" in_it test -s /etc/default/causeway

step "is purged"
said=$(in_it dpkg --purge causeway 2>&1)
must "it says what is left: $said" grep -q '/var/lib/causeway and /etc/causeway are left' <<<"$said"
for path in "$wants" /etc/default/causeway /usr/share/doc/causeway /var/lib/systemd/deb-systemd-helper-enabled/causeway.service.dsh-also; do
    must "$path is gone" gone "$path"
done
must "the configuration stays" in_it test -s "$config"
must "the data stay" in_it sh -c 'ls /var/lib/causeway/* >/dev/null'
must "nothing of it is left to dpkg" test -z "$(in_it dpkg-query -W -f '${Status}' causeway 2>/dev/null)"
step "all is well"
