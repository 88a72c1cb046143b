//go:build chaos

package chaos

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// proxy passes connections on to a server, and can cut them in the middle of a response.
type proxy struct {
	listener net.Listener
	to       string

	mutex   sync.Mutex
	cutting bool
	open    map[net.Conn]bool
	done    sync.WaitGroup
	cuts    int
}

func startProxy(t testing.TB, addr, to string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, to: to, open: map[net.Conn]bool{}}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		p.closeAll()
		p.done.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) setCutting(cutting bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.cutting = cutting
}

func (p *proxy) closeAll() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	for connection := range p.open {
		_ = connection.Close()
	}
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mutex.Lock()
		p.open[client], p.open[server] = true, true
		p.mutex.Unlock()
		p.done.Go(func() { p.pass(client, server, false) })
		p.done.Go(func() { p.pass(server, client, true) })
	}
}

// pass copies until one side ends. Responses may be cut: some of their bytes are
// passed on, and then the connection is gone.
func (p *proxy) pass(from, to net.Conn, responses bool) {
	defer func() {
		_, _ = from.Close(), to.Close()
		p.mutex.Lock()
		delete(p.open, from)
		delete(p.open, to)
		p.mutex.Unlock()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && responses && p.cutNow() {
			_, _ = to.Write(buffer[:rand.IntN(n)])
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

const cutOneIn = 40

func (p *proxy) cutNow() bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !p.cutting || rand.IntN(cutOneIn) > 0 {
		return false
	}
	p.cuts++
	return true
}
