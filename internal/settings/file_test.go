package settings_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/alecthomas/kong"

	"tollgate/internal/settings"
)

type cli struct {
	settings.File `embed:""`
	Run           struct {
		Kafka settings.Kafka  `embed:"" prefix:"kafka-"`
		Redis settings.Redis  `embed:"" prefix:"redis-"`
		Topic settings.Topics `embed:"" prefix:"topic-"`
	} `cmd:""`
}

// FuzzSettingsFile: whatever the file says, it is taken, or refused with words.
func FuzzSettingsFile(f *testing.F) {
	for _, seed := range []string{
		"kafka-brokers: [a:1, b:2]\nredis-db: 3\nkafka-tls: true\n", "kafka-brokers: a:1", "- a", "a: &x\n  b: *x", "kafka-tls: 3\nredis-db: x",
		"? [1]\n: 2", "kafka-brokers: {a: b}", "redis-wait-timeout: 1e9", "redis-db: 99999999999999999999", "", "\x00", "---\n---\n", "!!binary x",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "settings.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		var c cli
		_, err := settings.Parse(&c, []string{"run", "--config", path}, kong.Exit(func(int) { t.Fatal("it ended the process") }))
		if err == nil {
			return
		}
		var problems settings.Problems
		if !errors.As(err, &problems) || len(problems) == 0 || len(problems[0]) < 10 {
			t.Fatalf("got %#v", err)
		}
	})
}
