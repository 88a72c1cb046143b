package catalog

import (
	"context"
	"log/slog"
	"os"
	"time"

	"tollgate/internal/balance"
)

// Watch reads the catalogue file again whenever reload is sent something, and
// whenever its content has changed (looked at every so often: a link that points
// elsewhere, as with a Kubernetes ConfigMap, is a change too), until ctx ends. inForce
// is the version to begin with. A version that is valid is given to accept; one that is
// not, or that accept refuses, leaves the old one in force, loudly.
func Watch(ctx context.Context, path, inForce string, every time.Duration, reload <-chan os.Signal, logger *slog.Logger, accept func(*balance.Catalog) error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	last := inForce // the version looked at last, "" where there was none
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-reload:
			asked = true
		case <-ticker.C:
		}
		text, err := os.ReadFile(path)
		version := ""
		if err == nil {
			version = versionOf(text)
		}
		if version == last && !asked {
			continue // the same as before, or as unreadable
		}
		last = version
		var next *balance.Catalog
		if err == nil {
			next, err = Parse(text)
		}
		if err == nil {
			err = accept(next)
		}
		if err != nil {
			logger.Error("the catalogue is not taken, the old one stays", "file", path, "problems", err.Error())
			continue
		}
		logger.Info("new catalogue in force", "file", path, "version", next.Version)
	}
}
