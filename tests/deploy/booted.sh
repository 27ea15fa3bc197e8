#!/bin/bash
# The same as package.sh for what needs a service manager: boots systemd in a view of this
# machine's own system (overlayfs, systemd-nspawn) and has it start, reload, kill, upgrade and
# stop the packaged server. Not part of `make test`: not every machine can do this. Needs root
# and Debian's package systemd-container. Prints what was done; ends with 1 if it went wrong.
# Usage: tests/deploy/booted.sh FILE.deb
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    package=$(readlink -f "${1:?usage: booted.sh FILE.deb}")
    folder=$(mktemp -d --tmpdir causeway-booted-XXXXXX)
    trap 'rmdir "$folder"' EXIT
    unshare --mount --propagation private "$(readlink -f "$0")" --inside "$package" "$folder"
    exit
fi
package=$2 folder=$3 root=$3/root

mount -t tmpfs -o mode=0755 tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
# What is this machine's own, and would keep services from being started.
rm -f "$root/etc/fstab" "$root/usr/sbin/policy-rc.d"
: >"$root/etc/machine-id"
mkdir "$root/trial"
cp "$package" "$root/trial/causeway.deb"
cat >"$root/trial/run" <<'TRIAL'
#!/bin/bash
exec >/trial/log 2>&1
trap 'systemctl poweroff' EXIT
set -ex
unit=causeway.service config=/etc/causeway/causeway.toml
pid() { systemctl show --property MainPID --value "$unit"; }
answers() {
    for _ in $(seq 150); do
        systemctl is-active --quiet "$unit" && causeway health --config "$config" && return
        sleep 0.2
    done
    systemctl status --no-pager "$unit"
    return 1
}

dpkg -i /trial/causeway.deb
: There is no configuration: it is not started, and that is no failure.
test "$(systemctl show --property ActiveState --property ConditionResult --value "$unit" | sort | xargs)" = "inactive no"
sed -n 's/^    //p' /usr/share/doc/causeway/README.Debian >/trial/commands
sh -e /trial/commands
: It answers as soon as it is started.
causeway health --config "$config"
test "$(stat -c '%U %a' "/proc/$(pid)" /var/lib/causeway | xargs)" = "causeway 555 causeway 700"
grep -E '^(NoNewPrivs:.1|Seccomp:.2|CapBnd:.0+)$' "/proc/$(pid)/status" | test "$(wc -l)" = 3
systemctl reload "$unit"
answers
first=$(pid)
kill -KILL "$first"
sleep 1
answers
second=$(pid)
test "$second" != "$first"
: An upgrade starts it anew, removal stops it.
dpkg -i /trial/causeway.deb
answers
test "$(pid)" != "$second"
dpkg --remove causeway
test "$(systemctl is-active "$unit")" = inactive
dpkg --purge causeway
test -s "$config"
set +x
echo "all is well"
TRIAL
chmod +x "$root/trial/run"
printf '[Unit]\nAfter=network.target\n[Service]\nExecStart=/trial/run\n' >"$root/etc/systemd/system/trial.service"
ln -s ../trial.service "$root/etc/systemd/system/multi-user.target.wants/trial.service"
timeout 180 systemd-nspawn --quiet --boot --private-network --register=no --keep-unit --directory "$root" \
    --console=pipe >"$folder/console" 2>&1 </dev/null || tail -n 20 "$folder/console" >&2
cat "$root/trial/log"
tail -n 1 "$root/trial/log" | grep -qx 'all is well'
