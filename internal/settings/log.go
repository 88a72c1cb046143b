package settings

import (
	"io"
	"log/slog"
)

// Log are the settings of the log.
type Log struct {
	Level  string `default:"${log_level}" help:"debug, info, warn or error."`
	Format string `default:"text" help:"text or json."`
}

// Check notes what is wrong.
func (l *Log) Check(problems *Problems) {
	if _, ok := l.level(); !ok {
		problems.Add("--log-level: %q is none of debug, info, warn and error", l.Level)
	}
	if l.Format != "text" && l.Format != "json" {
		problems.Add("--log-format: %q is neither text nor json", l.Format)
	}
}

func (l *Log) level() (level slog.Level, ok bool) {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok = levels[l.Level]
	return level, ok
}

// Logger makes the logger of settings that were checked.
func (l *Log) Logger(out io.Writer) *slog.Logger {
	level, _ := l.level()
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
