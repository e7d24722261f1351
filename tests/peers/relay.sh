#!/bin/bash
# Relays durable 1 KiB messages between two servers with jincai and with its peers, all in one run: relay.sh [--json]
# Prints a table, or one JSON object of messages per second, each the median of RUNS runs (5).
#
# What is the same for all: MESSAGES messages of 1,024 bytes; 1,024 handed over and not confirmed at most; two servers, each
# with a data directory of its own on one disk; TLS between them, with certificates at both ends; a message counts when the
# second server holds it durably. What differs is said in the output: jincai also signs and encrypts every message and takes
# its load within the first server's process, the peers take theirs over a connection on loopback without TLS.
#
# Rates are those of the whole run, so that the slower need fewer messages: PEER_MESSAGES for RabbitMQ, NATS_MESSAGES for NATS.
# JINCAI names the program (default: what cargo builds). Servers run without privileges, on free ports, and are stopped.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
runs=${RUNS:-5}
messages=${MESSAGES:-200000}
peer_messages=${PEER_MESSAGES:-50000}
nats_messages=${NATS_MESSAGES:-20000}
in_flight=1024
json=no
[ "${1:-}" = "--json" ] && json=yes
say() { echo "$*" >&2; }
fail() { say "relay.sh: $*"; exit 1; }

# --- what it needs -----------------------------------------------------------------------------------------------------------

packages=""
command -v nats-server >/dev/null || packages="$packages nats-server"
[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || packages="$packages rabbitmq-server"
command -v go >/dev/null || packages="$packages golang-go"
command -v openssl >/dev/null || packages="$packages openssl"
command -v python3 >/dev/null || packages="$packages python3"
if [ -n "$packages" ]; then
    say "installing:$packages"
    as_root=""
    [ "$(id -u)" -eq 0 ] || as_root=sudo
    # Debian's package starts a server of its own unless it is told not to; this run wants none but its own.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod +x "$policy"
        remove_policy=yes
    fi
    $as_root apt-get update -q >&2
    # The list is meant to be split into words.
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages >&2
    [ "${remove_policy:-no}" = no ] || $as_root rm "$policy"
fi
jincai=${JINCAI:-}
if [ -z "$jincai" ]; then
    (cd "$root" && cargo build --release --locked --workspace --bin jincai) >&2
    jincai=${CARGO_TARGET_DIR:-$root/target}/release/jincai
fi

work=$(mktemp -d)
chmod 755 "$work"
# Each server leads a process group of its own, so that whatever it starts ends with it.
started=()
stop_all() {
    for group in "${started[@]}"; do
        kill -- "-$group" 2>/dev/null || true
    done
    for group in "${started[@]}"; do
        # A server that does not end by itself is ended.
        for _ in $(seq 100); do
            kill -0 -- "-$group" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 -- "-$group" 2>/dev/null || true
    done
    started=()
}
trap 'stop_all; rm -rf "$work"' EXIT
(cd "$here/relay" && go build -o "$work/load" .)

# As root, servers run as this user.
user=$(id -un)
drop=()
if [ "$(id -u)" -eq 0 ]; then
    user=rabbitmq
    drop=(setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups)
fi
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
median() { printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"; }
wait_for() { # what, command…
    local what=$1
    shift
    for _ in $(seq 600); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "waited a minute for $what; see its log: $(tail -n 5 "$work"/*.log 2>/dev/null | cut -c1-300)"
}
# A peer that is far slower than what is known of it, even on a small machine with a slow disk, was set up wrongly.
check() { # name, figure, least
    [ "$2" -ge "$3" ] || fail "$1 relays $2 messages/s, which is far under its known figure of more than $3: look at the set-up"
}

# --- certificates ------------------------------------------------------------------------------------------------------------

mkdir "$work/tls"
(
    cd "$work/tls"
    openssl req -x509 -newkey ed25519 -nodes -days 2 -subj "/CN=relay test root" -keyout root.key -out root.pem
    for name in first second; do
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" -keyout "$name.key" -out "$name.csr"
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >"$name.ext"
        openssl x509 -req -in "$name.csr" -CA root.pem -CAkey root.key -CAcreateserial -days 2 -extfile "$name.ext" -out "$name.pem"
    done
    chmod 644 ./*
) >/dev/null 2>&1
[ "$(id -u)" -ne 0 ] || chown -R "$user" "$work"

# --- RabbitMQ ----------------------------------------------------------------------------------------------------------------

rabbit_bin=/usr/lib/rabbitmq/bin
cookie=relay$RANDOM$RANDOM
epmd_port=$(free_port)
rabbit_env() { # node, command…
    local dir=$work/rabbit-$1
    exec env -i PATH="$PATH" HOME="$dir" LANG=C.UTF-8 ERL_EPMD_ADDRESS=127.0.0.1 ERL_EPMD_PORT="$epmd_port" \
        RABBITMQ_NODENAME="$1-relay@localhost" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_BASE="$dir" \
        RABBITMQ_MNESIA_BASE="$dir/data" RABBITMQ_LOG_BASE="$dir/log" RABBITMQ_CONFIG_FILE="$dir/rabbitmq" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$dir/plugins" RABBITMQ_PID_FILE="$dir/pid" RABBITMQ_CONF_ENV_FILE=/dev/null \
        RABBITMQ_DIST_PORT="${dist_port[$1]}" RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-setcookie $cookie" \
        RABBITMQ_CTL_ERL_ARGS="-setcookie $cookie" "${drop[@]}" "${@:2}"
}
rabbit_ctl() { (rabbit_env "$1" "$rabbit_bin/rabbitmqctl" --longnames=false "${@:2}"); }
declare -A dist_port amqp_port amqps_port
start_rabbit() { # node
    local dir=$work/rabbit-$1
    mkdir -p "$dir/data" "$dir/log"
    dist_port[$1]=$(free_port)
    amqp_port[$1]=$(free_port)
    amqps_port[$1]=$(free_port)
    cat >"$dir/rabbitmq.conf" <<CONF
listeners.tcp.1 = 127.0.0.1:${amqp_port[$1]}
listeners.ssl.1 = 127.0.0.1:${amqps_port[$1]}
ssl_options.cacertfile = $work/tls/root.pem
ssl_options.certfile = $work/tls/$1.pem
ssl_options.keyfile = $work/tls/$1.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
log.file.level = warning
CONF
    cat >"$dir/advanced.config" <<CONF
[{kernel, [{inet_dist_use_interface, {127,0,0,1}}]}].
CONF
    echo '[rabbitmq_shovel].' >"$dir/plugins"
    [ "$(id -u)" -ne 0 ] || chown -R "$user" "$dir"
    (rabbit_env "$1" setsid "$rabbit_bin/rabbitmq-server") >"$work/rabbit-$1.log" 2>&1 &
    started+=($!)
    wait_for "rabbitmq $1" rabbit_ctl "$1" await_startup
}
relay_rabbit() { # queue type
    local from="amqp://guest:guest@127.0.0.1:${amqp_port[first]}" to="amqp://guest:guest@127.0.0.1:${amqp_port[second]}"
    "$work/load" -kind rabbitmq-setup -from "$from" -source "relay-$1" -to "$to" -sink "relay-$1" -type "$1"
    local tls="cacertfile=$work/tls/root.pem&certfile=$work/tls/first.pem&keyfile=$work/tls/first.key&verify=verify_peer&server_name_indication=localhost"
    rabbit_ctl first set_parameter shovel "relay-$1" "{\"src-protocol\":\"amqp091\",\"src-uri\":\"amqp://guest:guest@127.0.0.1:${amqp_port[first]}\",
        \"src-queue\":\"relay-$1\",\"src-prefetch-count\":$in_flight,\"dest-protocol\":\"amqp091\",
        \"dest-uri\":\"amqps://guest:guest@localhost:${amqps_port[second]}?$tls\",\"dest-queue\":\"relay-$1\",
        \"ack-mode\":\"on-confirm\"}" >/dev/null
    wait_for "the shovel of relay-$1" eval "rabbit_ctl first eval 'rabbit_shovel_status:status().' | grep -q running"
    "$work/load" -kind rabbitmq -from "$from" -source "relay-$1" -to "$to" -sink "relay-$1" -messages "$peer_messages" -in-flight "$in_flight"
    rabbit_ctl first clear_parameter shovel "relay-$1" >/dev/null
    rabbit_ctl first delete_queue "relay-$1" >/dev/null
    rabbit_ctl second delete_queue "relay-$1" >/dev/null
}

# --- NATS --------------------------------------------------------------------------------------------------------------------

declare -A nats_port leaf_port
start_nats() { # name
    local dir=$work/nats-$1
    mkdir -p "$dir"
    nats_port[$1]=$(free_port)
    leaf_port[$1]=$(free_port)
    local tls="tls { cert_file: \"$work/tls/$1.pem\", key_file: \"$work/tls/$1.key\", ca_file: \"$work/tls/root.pem\""
    {
        echo "server_name: $1"
        echo "listen: \"127.0.0.1:${nats_port[$1]}\""
        echo "jetstream { store_dir: \"$dir\", domain: $1, max_mem: 64M, max_file: 20G, sync_interval: always }"
        if [ "$1" = first ]; then
            echo "leafnodes { listen: \"127.0.0.1:${leaf_port[$1]}\", $tls, verify: true } }"
        else
            echo "leafnodes { remotes [ { url: \"tls://localhost:${leaf_port[first]}\", $tls } } ] }"
        fi
    } >"$work/nats-$1.conf"
    [ "$(id -u)" -ne 0 ] || chown -R "$user" "$dir"
    (exec "${drop[@]}" setsid "$nats" -c "$work/nats-$1.conf") >"$work/nats-$1.log" 2>&1 &
    started+=($!)
    wait_for "nats $1" grep -q "Server is ready" "$work/nats-$1.log"
}
relay_nats() {
    "$work/load" -kind nats-setup -from "nats://127.0.0.1:${nats_port[first]}" -to "nats://127.0.0.1:${nats_port[second]}" \
        -source relay -sink relay-mirror
    "$work/load" -kind nats -from "nats://127.0.0.1:${nats_port[first]}" -source relay \
        -to "nats://127.0.0.1:${nats_port[second]}" -sink relay-mirror -messages "$nats_messages" -in-flight "$in_flight"
}

# --- all of them -------------------------------------------------------------------------------------------------------------

# `sync_interval: always` is known since version 2.10; Debian's may be older.
nats=$(command -v nats-server)
if ! "$nats" --version | grep -qE 'v(2\.(1[0-9]|[2-9][0-9])|[3-9])'; then
    say "nats-server of the system is $("$nats" --version), which knows no sync_interval: always; installing a newer one"
    GOBIN="$work" go install github.com/nats-io/nats-server/v2@latest >&2
    nats=$work/nats-server
fi
ours=() quorum=() classic=() stream=()
for run in $(seq "$runs"); do
    say "run $run of $runs"
    ours+=("$("$jincai" bench relay --messages "$messages" --json 2>/dev/null | python3 -c 'import json, sys; print(round(json.load(sys.stdin)["jincai"]))')")
    # The name server of Erlang's nodes, which would otherwise be started by the first of them and outlive it.
    (exec "${drop[@]}" setsid epmd -address 127.0.0.1 -port "$epmd_port") >/dev/null 2>&1 &
    started+=($!)
    start_rabbit first
    start_rabbit second
    quorum+=("$(relay_rabbit quorum)")
    classic+=("$(relay_rabbit classic)")
    stop_all
    start_nats first
    start_nats second
    stream+=("$(relay_nats)")
    stop_all
    rm -rf "$work"/rabbit-* "$work"/nats-first "$work"/nats-second
    say "jincai ${ours[-1]}, rabbitmq quorum ${quorum[-1]}, rabbitmq classic ${classic[-1]}, nats ${stream[-1]} messages/s"
done
jincai_rate=$(median "${ours[@]}")
quorum_rate=$(median "${quorum[@]}")
classic_rate=$(median "${classic[@]}")
stream_rate=$(median "${stream[@]}")
check "rabbitmq with quorum queues" "$quorum_rate" 1000
check "rabbitmq with classic queues" "$classic_rate" 1000
check "nats with sync_interval: always" "$stream_rate" 100
say "jincai:   $("$jincai" --version), QUIC with TLS 1.3, signed and encrypted, fdatasync at both ends, $messages messages"
say "rabbitmq: $(dpkg-query -W -f '${Version}' rabbitmq-server), two nodes, shovel (prefetch $in_flight, on-confirm) over AMQP with TLS, publisher confirms, durable queues, persistent messages, $peer_messages messages"
say "nats:     $("$nats" --version), JetStream on file with sync_interval: always, mirrored over a leaf node connection with TLS, $nats_messages messages"
if [ "$json" = yes ]; then
    printf '{"jincai": %s, "rabbitmq_quorum_shovel": %s, "rabbitmq_classic_shovel": %s, "nats_sync_always": %s, "unit": "messages/s"}\n' \
        "$jincai_rate" "$quorum_rate" "$classic_rate" "$stream_rate"
else
    printf '%-28s %12s\n' "median of $runs" "messages/s" jincai "$jincai_rate" "rabbitmq quorum, shovel" "$quorum_rate" \
        "rabbitmq classic, shovel" "$classic_rate" "nats, sync always" "$stream_rate"
fi
