package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Probe is one thing that must be well before the worker is ready.
type Probe struct {
	Name  string
	Check func(context.Context) error
}

// HTTPOptions are what the HTTP server shows.
type HTTPOptions struct {
	Addr     string
	Registry *prometheus.Registry
	Probes   []Probe
	Pprof    bool
	Page     http.Handler // at /, nil for none
}

const (
	probeTimeout    = 2 * time.Second
	readTimeout     = 5 * time.Second
	httpStopTimeout = 5 * time.Second
)

// HTTPServer is a server that listens already.
type HTTPServer struct {
	listener net.Listener
	server   *http.Server
}

// Listen opens the server's address, so that one that is taken shows at once.
func Listen(options HTTPOptions) (*HTTPServer, error) {
	listener, err := net.Listen("tcp", options.Addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(options.Registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, options.Probes) })
	if options.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	if options.Page != nil {
		mux.Handle("/", options.Page)
	}
	return &HTTPServer{listener, &http.Server{Handler: mux, ReadHeaderTimeout: readTimeout}}, nil
}

// Addr is where the server listens.
func (s *HTTPServer) Addr() string { return s.listener.Addr().String() }

// Serve serves until ctx ends.
func (s *HTTPServer) Serve(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpStopTimeout)
		defer cancel()
		_ = s.server.Shutdown(closing)
	})
	err := s.server.Serve(s.listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ready answers 200 if every probe is well, else 503: a line for each, further ones indented.
func ready(w http.ResponseWriter, r *http.Request, probes []Probe) {
	ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
	defer cancel()
	problems := make([]error, len(probes))
	done := make(chan struct{})
	for i, probe := range probes {
		go func() {
			problems[i] = probe.Check(ctx)
			done <- struct{}{}
		}()
	}
	for range probes {
		<-done
	}
	var text strings.Builder
	status := http.StatusOK
	for i, probe := range probes {
		if problems[i] != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "%s: %s\n", probe.Name, strings.ReplaceAll(problems[i].Error(), "\n", "\n  "))
		} else {
			fmt.Fprintf(&text, "%s: ok\n", probe.Name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprint(w, text.String())
}
