#!/bin/sh
# Runs a command in a control group with a memory limit (as root): limited.sh MEBIBYTES COMMAND…
# Whatever needs more is killed; page cache that can be given back counts, and is given back.
set -eu
limit=$(($1 * 1048576))
shift
if [ -d /sys/fs/cgroup/memory ]; then
    group=/sys/fs/cgroup/memory/jincai-limited-$$
    file=memory.limit_in_bytes
else
    group=/sys/fs/cgroup/jincai-limited-$$
    file=memory.max
fi
mkdir "$group"
trap 'rmdir "$group"' EXIT
echo "$limit" >"$group/$file"
sh -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$group" "$@"
