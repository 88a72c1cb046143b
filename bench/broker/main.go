// Command broker is the embedded Kafka-compatible broker as a process of its own, so that
// its share of the processor can be told from the others'. It ends with its standard input.
package main

import (
	"fmt"
	"io"
	"os"

	"tollgate/internal/embedded"
)

func main() {
	broker, err := embedded.StartBroker("127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
	defer broker.Close()
	fmt.Println(broker.Addr)
	_, _ = io.Copy(io.Discard, os.Stdin)
}
