#!/usr/bin/env bash
# A real Redis on loopback, with an append-only file.
#
#   redis.sh start [PORT]   starts it (6379 where no port is given) and waits until it answers
#   redis.sh stop  [PORT]   stops it
#
# State lies in $TOLLGATE_REDIS_DIR (.cache/redis in the project) and is kept over restarts;
# TOLLGATE_REDIS_FRESH=1 begins anew.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
home=${TOLLGATE_REDIS_DIR:-$here/../../.cache/redis}
command=${1:-}
port=${2:-6379}
data=$home/$port

answers() { redis-cli -h 127.0.0.1 -p "$port" ping 2>/dev/null | grep -q PONG; }

start() {
  if answers; then
    echo "redis.sh: something answers at 127.0.0.1:$port already" >&2
    exit 1
  fi
  [ -z "${TOLLGATE_REDIS_FRESH:-}" ] || rm -rf "$data"
  mkdir -p "$data"
  redis-server --bind 127.0.0.1 --port "$port" --dir "$data" --appendonly yes --appendfsync everysec --save "" \
    --maxmemory-policy noeviction --daemonize yes --pidfile "$data/pid" --logfile "$data/redis.log" > /dev/null
  for _ in $(seq 100); do
    if answers; then
      echo "redis.sh: $(redis-server --version | cut -d' ' -f1-3) answers at 127.0.0.1:$port (process $(cat "$data/pid"))"
      return
    fi
    sleep 0.1
  done
  echo "redis.sh: Redis did not answer within 10 seconds" >&2
  tail -20 "$data/redis.log" >&2
  exit 1
}

stop() {
  [ -f "$data/pid" ] || { echo "redis.sh: no Redis was started at port $port" >&2; exit 1; }
  kill "$(cat "$data/pid")"
  for _ in $(seq 100); do
    answers || return 0
    sleep 0.1
  done
}

case $command in
  start) start ;;
  stop) stop ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
