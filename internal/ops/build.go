package ops

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// Version is the release, set by the linker (-X tollgate/internal/ops.Version=…).
var Version = "dev"

// Build is what this program was made of.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

// ReadBuild reads what the compiler noted.
func ReadBuild() Build {
	build := Build{Version: Version, Commit: "unknown", Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				build.Commit = setting.Value
			}
		}
	}
	return build
}

func newBuildInfo() prometheus.Collector {
	build := ReadBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "What the program was made of.",
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "go": build.Go},
	})
	info.Set(1)
	return info
}
