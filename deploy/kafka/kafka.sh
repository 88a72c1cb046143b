#!/usr/bin/env bash
# A real Apache Kafka on loopback, one node, from its jars in the Maven repository.
#
#   kafka.sh start [PORT]   starts it (9092 where no port is given) and waits until it answers
#   kafka.sh stop  [PORT]   stops it
#   kafka.sh jars           only fetches the jars
#
# State lies in $TOLLGATE_KAFKA_DIR (.cache/kafka in the project) and is kept over restarts;
# TOLLGATE_KAFKA_FRESH=1 begins anew. TOLLGATE_KAFKA_ADVERTISED=HOST:PORT is where clients are
# sent, if that is not where it listens (a proxy). TOLLGATE_KAFKA_PROPERTIES names a file of
# further properties, TOLLGATE_KAFKA_FORMAT has further arguments of the format tool,
# TOLLGATE_KAFKA_HEAP is the most memory that it takes (1g), TOLLGATE_KAFKA_JVM has further options of Java.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=${TOLLGATE_KAFKA_DIR:-$here/../../.cache/kafka}
command=${1:-}
port=${2:-9092}
controller_port=$((port + 1))
data=$home/$port
jars=$home/jars

fetch_jars() {
  local wanted
  wanted=$(sha256sum "$here/pom.xml" | cut -d' ' -f1)
  [ "$(cat "$jars/.pom" 2>/dev/null)" = "$wanted" ] && return
  rm -rf "$jars"
  mkdir -p "$jars"
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$jars"
  echo "$wanted" > "$jars/.pom"
}

java_kafka() { exec java -Xmx${TOLLGATE_KAFKA_HEAP:-1g} -Xms256m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn ${TOLLGATE_KAFKA_JVM:-} -cp "$jars/*" "$@"; }

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

start() {
  fetch_jars
  if answers; then
    echo "kafka.sh: something listens at 127.0.0.1:$port already" >&2
    exit 1
  fi
  [ -z "${TOLLGATE_KAFKA_FRESH:-}" ] || rm -rf "$data"
  mkdir -p "$data"
  {
    cat "$here/server.properties"
    echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port"
    echo "advertised.listeners=PLAINTEXT://${TOLLGATE_KAFKA_ADVERTISED:-127.0.0.1:$port}"
    echo "controller.quorum.voters=1@127.0.0.1:$controller_port"
    echo "log.dirs=$data/logs"
    [ -z "${TOLLGATE_KAFKA_PROPERTIES:-}" ] || cat "$TOLLGATE_KAFKA_PROPERTIES"
  } > "$data/server.properties"
  if [ ! -f "$data/logs/meta.properties" ]; then
    (java_kafka kafka.tools.StorageTool format -t tollgatetollgatetollg -c "$data/server.properties" ${TOLLGATE_KAFKA_FORMAT:-}) > "$data/format.log" 2>&1 ||
      { cat "$data/format.log" >&2; exit 1; }
  fi
  java_kafka kafka.Kafka "$data/server.properties" > "$data/kafka.log" 2>&1 < /dev/null &
  echo $! > "$data/pid"
  for _ in $(seq 1200); do
    if answers; then
      echo "kafka.sh: Kafka $(version) answers at 127.0.0.1:$port (process $(cat "$data/pid"))"
      return
    fi
    kill -0 "$(cat "$data/pid")" 2>/dev/null || { tail -20 "$data/kafka.log" >&2; exit 1; }
    sleep 0.1
  done
  echo "kafka.sh: Kafka did not answer within two minutes" >&2
  tail -20 "$data/kafka.log" >&2
  exit 1
}

version() { basename "$jars"/kafka_2.13-*.jar .jar | sed 's/kafka_2.13-//'; }

stop() {
  [ -f "$data/pid" ] || { echo "kafka.sh: no Kafka was started at port $port" >&2; exit 1; }
  local pid
  pid=$(cat "$data/pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 300); do
    kill -0 "$pid" 2>/dev/null || { rm -f "$data/pid"; return; }
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$data/pid"
}

case $command in
  start) start ;;
  stop) stop ;;
  jars) fetch_jars ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
