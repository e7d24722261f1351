#!/bin/bash
# Sends one large file from one place on this machine to another with jincai and with its peers, all in one run: bulk.sh [--json]
# Prints a table, or one JSON object of MB/s (a million bytes a second), each the median of RUNS runs (5).
#
# What is the same for all: the same number of random bytes (BYTES, 1 GiB), written and synced before the clock runs; source and copy
# on one disk, below DIRECTORY (the system's temporary one); a connection on loopback, encrypted; the clock ends when the copy is
# whole and synced. What differs is said in the output: jincai also keeps a copy of its own at the sender, signs, journals at
# both ends so that any hop may die, and checks every chunk; the peers' copies are synced by one call at the end.
#
# JINCAI names the program (default: what cargo builds). Servers run on free ports with keys of their own, and are stopped.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
runs=${RUNS:-5}
bytes=${BYTES:-1073741824}
json=no
[ "${1:-}" = "--json" ] && json=yes
say() { echo "$*" >&2; }
fail() { say "bulk.sh: $*"; exit 1; }
[ "$(id -u)" -eq 0 ] || fail "sshd and vsftpd change users, and need root for that"

# --- what it needs -----------------------------------------------------------------------------------------------------------

packages=""
[ -x /usr/sbin/sshd ] || packages="$packages openssh-server"
command -v scp >/dev/null || packages="$packages openssh-client"
[ -x /usr/sbin/vsftpd ] || packages="$packages vsftpd"
command -v curl >/dev/null || packages="$packages curl"
command -v openssl >/dev/null || packages="$packages openssl"
command -v python3 >/dev/null || packages="$packages python3"
if [ -n "$packages" ]; then
    say "installing:$packages"
    # Debian's packages start servers of their own unless they are told not to; this run wants none but its own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        remove_policy=yes
    fi
    apt-get update -q >&2
    # The list is meant to be split into words.
    # shellcheck disable=SC2086
    env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages >&2
    [ "${remove_policy:-no}" = no ] || rm "$policy"
fi
jincai=${JINCAI:-}
if [ -z "$jincai" ]; then
    (cd "$root" && cargo build --release --locked --workspace --bin jincai) >&2
    jincai=${CARGO_TARGET_DIR:-$root/target}/release/jincai
fi

work=$(mktemp -d -p "${DIRECTORY:-${TMPDIR:-/tmp}}")
chmod 755 "$work"
started=()
stop_all() {
    for server in "${started[@]}"; do
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    done
    started=()
}
trap 'stop_all; rm -rf "$work"' EXIT
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
wait_for_port() { # what, port
    for _ in $(seq 100); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$2") 2>/dev/null; then return; fi
        sleep 0.1
    done
    fail "waited for $1; see its log: $(tail -n 5 "$work"/*.log 2>/dev/null | cut -c1-300)"
}
# Runs a command that makes a copy, syncs that, and prints MB/s.
rate() { # copy, command…
    local copy=$1 begun ended
    shift
    rm -f "$copy"
    begun=$EPOCHREALTIME
    "$@" >/dev/null 2>>"$work/client.log" || fail "the copy failed: $(tail -n 3 "$work/client.log")"
    sync "$copy"
    ended=$EPOCHREALTIME
    cmp -s "$work/source" "$copy" || fail "the copy is not what was sent"
    python3 -c "print(round($bytes / 1e6 / ($ended - $begun), 1))"
}
# A peer that is far slower than what is known of it, even on a small machine with a slow disk, was set up wrongly.
check() { # name, figure, least
    python3 -c "import sys; sys.exit($2 < $3)" || fail "$1 makes $2 MB/s, which is far under its known figure of more than $3: look at the set-up"
}

# --- OpenSSH -----------------------------------------------------------------------------------------------------------------

mkdir -p /run/sshd "$work/ssh"
ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/host"
ssh-keygen -q -t ed25519 -N '' -f "$work/ssh/user"
cp "$work/ssh/user.pub" "$work/ssh/authorized_keys"
ssh_port=$(free_port)
cat >"$work/ssh/sshd_config" <<CONF
ListenAddress 127.0.0.1
Port $ssh_port
HostKey $work/ssh/host
PidFile $work/ssh/pid
AuthorizedKeysFile $work/ssh/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
CONF
/usr/sbin/sshd -D -e -f "$work/ssh/sshd_config" 2>"$work/sshd.log" &
started+=($!)
wait_for_port sshd "$ssh_port"
copy_scp() {
    scp -q -P "$ssh_port" -i "$work/ssh/user" -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
        "$work/source" "root@127.0.0.1:$work/copy-scp"
}

# --- vsftpd ------------------------------------------------------------------------------------------------------------------

mkdir -p /var/run/vsftpd/empty "$work/ftp/in"
chown ftp "$work/ftp/in"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$work/ftp.key" -out "$work/ftp.pem" 2>/dev/null
ftp_port=$(free_port)
cat >"$work/vsftpd.conf" <<CONF
listen=YES
listen_address=127.0.0.1
listen_port=$ftp_port
background=NO
anonymous_enable=YES
local_enable=NO
no_anon_password=YES
write_enable=YES
anon_upload_enable=YES
anon_umask=022
anon_root=$work/ftp
ftp_username=ftp
nopriv_user=nobody
secure_chroot_dir=/var/run/vsftpd/empty
pasv_enable=YES
seccomp_sandbox=NO
use_sendfile=YES
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
require_ssl_reuse=NO
ssl_ciphers=HIGH
rsa_cert_file=$work/ftp.pem
rsa_private_key_file=$work/ftp.key
xferlog_enable=NO
CONF
/usr/sbin/vsftpd "$work/vsftpd.conf" >"$work/vsftpd.log" 2>&1 &
started+=($!)
wait_for_port vsftpd "$ftp_port"
copy_ftp() {
    curl -sS --ssl-reqd --cacert "$work/ftp.pem" -T "$work/source" "ftp://localhost:$ftp_port/in/copy"
}

# --- all of them -------------------------------------------------------------------------------------------------------------

head -c "$bytes" /dev/urandom >"$work/source"
sync "$work/source"
ours=() scp=() ftp=()
for run in $(seq "$runs"); do
    say "run $run of $runs"
    ours+=("$("$jincai" bench bulk --bytes "$bytes" --dir "$work" --json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["jincai"])')")
    scp+=("$(rate "$work/copy-scp" copy_scp)")
    ftp+=("$(rate "$work/ftp/in/copy" copy_ftp)")
    rm -f "$work/copy-scp" "$work/ftp/in/copy"
    say "jincai ${ours[-1]}, scp ${scp[-1]}, vsftpd with TLS ${ftp[-1]} MB/s"
done
jincai_rate=$(median "${ours[@]}")
scp_rate=$(median "${scp[@]}")
ftp_rate=$(median "${ftp[@]}")
check scp "$scp_rate" 20
check vsftpd "$ftp_rate" 20
say "jincai: $("$jincai" --version), QUIC with TLS 1.3, signed and encrypted, chunks of 512 KiB checked at both ends, fdatasync in stores and journals, $bytes bytes"
say "scp:    $(ssh -V 2>&1), $(dpkg-query -W -f '${Version}' openssh-server), default ciphers, one sync of the copy at the end"
say "vsftpd: $(dpkg-query -W -f '${Version}' vsftpd), TLS on control and data, $(curl --version | head -1 | cut -d' ' -f1-2), one sync of the copy at the end"
if [ "$json" = yes ]; then
    printf '{"jincai": %s, "scp": %s, "vsftpd_tls": %s, "unit": "MB/s"}\n' "$jincai_rate" "$scp_rate" "$ftp_rate"
else
    printf '%-28s %12s\n' "median of $runs" "MB/s" jincai "$jincai_rate" scp "$scp_rate" "vsftpd with TLS" "$ftp_rate"
fi
