// Package embedded runs the servers of `worker dev` and of tests on machines
// with nothing else: a Kafka-compatible broker and a Redis, on loopback.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

// ErrAddressTaken says that another process listens at the address.
var ErrAddressTaken = errors.New("the address is in use")

// ErrNotLoopback says that an address is open to other machines.
var ErrNotLoopback = errors.New("the address is not a loopback address")

// Broker is an in-process Kafka-compatible broker.
type Broker struct {
	Addr    string
	cluster *kfake.Cluster
}

// StartBroker starts a broker at a loopback address; port 0 takes any that is
// free. Topics come into being with so many partitions when they are created.
// It fails with ErrAddressTaken or ErrNotLoopback.
func StartBroker(addr string) (*Broker, error) {
	port, err := loopbackPort(addr)
	if err != nil {
		return nil, err
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(port),
		// A worker that was killed may hold its partitions for so short a time.
		kfake.BrokerConfigs(map[string]string{"group.min.session.timeout.ms": "1000"}),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, addr) }),
	)
	if err != nil {
		return nil, fmt.Errorf("embedded broker at %s: %w", addr, taken(err))
	}
	return &Broker{Addr: cluster.ListenAddrs()[0], cluster: cluster}, nil
}

// Close stops the broker; what it held is gone.
func (b *Broker) Close() { b.cluster.Close() }

func loopbackPort(addr string) (int, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, fmt.Errorf("address %s: %w", addr, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("address %s: the port must be a number", addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return 0, fmt.Errorf("address %s: %w", addr, ErrNotLoopback)
	}
	return port, nil
}

func taken(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return ErrAddressTaken
	}
	return err
}
