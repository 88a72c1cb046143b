// Package console is the worker's page for people: what it decides now, what a customer
// has, and a form to send a check with. It has no external assets.
package console

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options are what the page shows, and may do.
type Options struct {
	Gatherer prometheus.Gatherer
	Feed     *Feed
	// Features lists the ids of what can be checked.
	Features func() []string
	// Customer answers customer.get for a customer.
	Customer func(ctx context.Context, customerID string) (result []byte, err error)
	// Check has a check decided. It is nil where the page is for looking only.
	Check func(ctx context.Context, request []byte) (result []byte, took time.Duration, err error)
}

const (
	maxRequestBytes = 64 << 10
	answerTimeout   = 5 * time.Second
)

//go:embed page
var page embed.FS

// Handler serves the page.
func Handler(options Options) http.Handler {
	files, err := fs.Sub(page, "page")
	if err != nil {
		panic(err) // the folder is embedded
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /api/overview", options.overview)
	mux.HandleFunc("GET /api/customers/{id}", options.customer)
	mux.HandleFunc("POST /api/checks", options.check)
	return guarded(mux)
}

// guarded refuses what other sites make a browser ask for. A name that leads to this machine
// (DNS rebinding) is no way in: the page is asked for by address or as localhost.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isAddress(r.Host) {
			http.Error(w, "ask for this page by IP address or as localhost, not as "+r.Host, http.StatusForbidden)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			if from, err := url.Parse(origin); err != nil || from.Host != r.Host {
				http.Error(w, "another site must not ask for this page", http.StatusForbidden)
				return
			}
		}
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func isAddress(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	return host == "localhost" || net.ParseIP(host) != nil
}

func (o *Options) overview(w http.ResponseWriter, _ *http.Request) {
	overview, err := readMetrics(o.Gatherer)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	overview.Writable, overview.Features, overview.Latest = o.Check != nil, o.Features(), o.Feed.Latest()
	answer(w, overview)
}

func (o *Options) customer(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	result, err := o.Customer(ctx, r.PathValue("id"))
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, json.RawMessage(result))
}

var errReadOnly = errors.New("this page is for looking only; start the worker with --console-write to send checks from it")

func (o *Options) check(w http.ResponseWriter, r *http.Request) {
	if o.Check == nil {
		refuse(w, http.StatusForbidden, errReadOnly)
		return
	}
	if r.Header.Get("Content-Type") != "application/json" { // a form of another site cannot send that
		refuse(w, http.StatusUnsupportedMediaType, errors.New("the content type must be application/json"))
		return
	}
	request, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	result, took, err := o.Check(ctx, request)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	answer(w, map[string]any{"took_ms": float64(took.Microseconds()) / 1000, "result": json.RawMessage(result)})
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // who asked may be gone
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
}
