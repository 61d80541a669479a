#!/usr/bin/env bash
# Runs the Java client, sarama and librdkafka over keys.txt and writes where each puts each key to
# crates/producer/tests/data/partitioner_vectors.tsv.
#
#   ./generate.sh                  needs Java 17, Maven, Go 1.26, a C compiler and librdkafka's headers
#   ./generate.sh --provision      installs librdkafka-dev with apt first
#   ./generate.sh --check          writes nothing; fails when the file would change
#
# Versions are fixed: kafka-clients in java/pom.xml, sarama in go/go.mod, librdkafka below.
set -euo pipefail
cd "$(dirname "$0")"

librdkafka_package=librdkafka-dev=2.0.2-1
out=../../crates/producer/tests/data/partitioner_vectors.tsv
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

check=false
for argument in "$@"; do
    case $argument in
        --provision) apt-get update -qq && apt-get install -y -qq "$librdkafka_package" ;;
        --check) check=true ;;
        *) echo "unknown argument: $argument" >&2; exit 2 ;;
    esac
done

for tool in mvn go cc; do
    command -v "$tool" >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done

cp -r java go c "$build"
mvn -q -B -f "$build/java/pom.xml" compile dependency:copy-dependencies
cc -O1 -Wall -o "$build/vectors" "$build/c/vectors.c" -lrdkafka || {
    echo "librdkafka's headers are missing: run with --provision" >&2
    exit 1
}
{
    echo "# Made by integration/partitioner-vectors/generate.sh from the real clients; not to be edited."
    printf '# client\trule\tkey\t1\t2\t3\t7\t12\t100\n'
    java -cp "$build/java/target/classes:$build/java/target/dependency/*" Vectors keys.txt
    (cd "$build/go" && go run . "$OLDPWD/keys.txt")
    "$build/vectors" keys.txt
} > "$build/vectors.tsv"

if $check; then
    diff -u "$out" "$build/vectors.tsv"
else
    mkdir -p "$(dirname "$out")"
    cp "$build/vectors.tsv" "$out"
fi
echo "$(grep -vc '^#' "$build/vectors.tsv") vectors"
