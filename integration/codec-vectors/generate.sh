#!/usr/bin/env bash
# Lets the Java client and kcat (librdkafka) write the same records with each codec to a real Kafka,
# and keeps the log segments, which hold the batches as they came, in
# crates/record-batch/tests/data/codecs.
#
#   ./generate.sh                  needs Java 17, kcat and the jars in target/kafka-jars/4.3.1
#                                  (any e2e scenario on Kafka fetches them)
#   ./generate.sh --provision      installs kcat with apt first
set -euo pipefail
cd "$(dirname "$0")"

kafka=4.3.1
records=400
jars="${CARGO_TARGET_DIR:-../../target}/kafka-jars/$kafka"
out=../../crates/record-batch/tests/data/codecs

for argument in "$@"; do
    case $argument in
        --provision) apt-get update -qq && apt-get install -y -qq kcat ;;
        *) echo "unknown argument: $argument" >&2; exit 2 ;;
    esac
done
for tool in java kcat python3; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done
[ -d "$jars" ] || { echo "no jars in $jars: run an e2e scenario on Kafka first" >&2; exit 1; }

work=$(mktemp -d)
broker_pid=
cleanup() {
    if [ -n "$broker_pid" ]; then
        kill -9 "$broker_pid" 2>/dev/null || true
        wait "$broker_pid" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT

java_main() {
    java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$jars/*" "$@"
}

# Key, tab, value: order events of one seed.
awk -v records="$records" 'BEGIN {
    seed = 42
    for (i = 0; i < records; i++) {
        for (j = 0; j < 5; j++) { seed = (seed * 16807) % 2147483647; n[j] = seed }
        printf "order-%d\t{\"type\":\"order.created\",\"event_id\":\"%08x%08x\",\"order_id\":\"order-%d\",", \
            i, n[0], n[1], i
        printf "\"customer_id\":\"c-%06d\",\"currency\":\"EUR\",\"status\":\"created\",", n[2] % 400000
        printf "\"items\":[{\"sku\":\"SKU-%05d\",\"quantity\":%d,\"unit_price_cents\":%d}]}\n", \
            n[3] % 50000, 1 + n[4] % 5, 199 + n[4] % 90000
    }
}' > "$work/records.tsv"

read -r port controller < <(python3 -c '
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))')
cat > "$work/server.properties" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs=$work/data
num.partitions=1
offsets.topic.replication.factor=1
auto.create.topics.enable=true
END
java_main kafka.tools.StorageTool format -t AAAAAAAAAAAAAAAAAAAAAQ -c "$work/server.properties" > "$work/format.log" 2>&1
java_main kafka.Kafka "$work/server.properties" > "$work/broker.log" 2>&1 &
broker_pid=$!
for attempt in $(seq 120); do
    if kcat -b "127.0.0.1:$port" -L -m 2 > /dev/null 2>&1; then break; fi
    kill -0 "$broker_pid" || { tail -30 "$work/broker.log" >&2; exit 1; }
    [ "$attempt" -lt 120 ] || { echo "the broker does not answer" >&2; exit 1; }
    sleep 0.5
done

mkdir -p "$out"
cp "$work/records.tsv" "$out/records.tsv"
keep() { # name
    cp "$work/data/$1-0/00000000000000000000.log" "$out/$1.bin"
    echo "$1 $(stat -c %s "$out/$1.bin")"
}
for codec in gzip snappy lz4 zstd; do
    # The first record makes the batch wait for the others.
    sed 's/^/origin:java\t/' "$work/records.tsv" |
        java_main org.apache.kafka.tools.ConsoleProducer --bootstrap-server "127.0.0.1:$port" \
            --topic "java-$codec" --compression-codec "$codec" \
            --command-property linger.ms=2000 --command-property batch.size=900000 \
            --reader-property parse.key=true --reader-property parse.headers=true \
            > "$work/java.log" 2>&1 || { cat "$work/java.log" >&2; exit 1; }
    keep "java-$codec"
    kcat -b "127.0.0.1:$port" -P -t "kcat-$codec" -z "$codec" -K "$(printf '\t')" -H origin=kcat \
        -X queue.buffering.max.ms=2000 -X batch.size=900000 -X topic.metadata.refresh.interval.ms=100 \
        -l "$work/records.tsv" > "$work/kcat.log" 2>&1 || { cat "$work/kcat.log" >&2; exit 1; }
    keep "kcat-$codec"
done
