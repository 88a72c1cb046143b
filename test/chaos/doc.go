// Package chaos breaks things under load and counts what became of every request:
// `make chaos`, or `make chaos-short` as CI does. Its tests have the build tag chaos; they
// need a real Kafka (deploy/kafka) and redis-server, and start their own.
package chaos
