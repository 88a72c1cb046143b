package catalog

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tollgate/internal/balance"
)

// logged is a log that is read line by line.
type logged struct{ lines chan string }

func (l *logged) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}

func TestAChangedFileIsTakenWhenItIsValid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "catalog.yaml")
	write := func(text string) {
		t.Helper()
		// As a ConfigMap is: another file under the same name, at once.
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(features)
	ctx, cancel := context.WithCancel(t.Context())
	log, accepted, reload := &logged{lines: make(chan string, 16)}, make(chan *balance.Catalog, 16), make(chan os.Signal)
	refusal := errors.New("it would change a meaning")
	var refuse bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watch(ctx, path, versionOf([]byte(features)), time.Millisecond, reload, slog.New(slog.NewTextHandler(log, nil)), func(c *balance.Catalog) error {
			if refuse {
				return refusal
			}
			accepted <- c
			return nil
		})
	}()
	defer func() { cancel(); <-done }()

	write(features + "  - {id: more, type: boolean}\n")
	if c := <-accepted; c.Feature("more") == nil {
		t.Error("the new version has no feature more")
	}
	<-log.lines
	write("features: [}")
	if line := <-log.lines; !strings.Contains(line, "the old one stays") {
		t.Errorf("got %s", line)
	}
	write(features)
	if c := <-accepted; c.Feature("more") != nil {
		t.Error("the version before is in force")
	}
	<-log.lines
	reload <- syscall.SIGHUP // taken again, though nothing has changed
	<-accepted
	<-log.lines
	refuse = true
	write(features + "plans: []\n")
	if line := <-log.lines; !strings.Contains(line, refusal.Error()) {
		t.Errorf("got %s", line)
	}
}
