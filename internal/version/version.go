// Package version knows what this program was built from.
package version

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set by the linker: -ldflags "-X fathom/internal/version.number=1.0.0 -X fathom/internal/version.commit=abc -X fathom/internal/version.date=2026-01-02T03:04:05Z".
var number, commit, date string

// Info is what there is to know.
type Info struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Date     string `json:"date,omitempty"` // of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// Get reads it from the linker's words, or else from what the Go tool wrote into the binary.
func Get() Info {
	v := Info{Version: number, Commit: commit, Date: date, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if b, ok := debug.ReadBuildInfo(); ok {
		if b.Main.Version != "(devel)" {
			v.Version = cmp.Or(v.Version, b.Main.Version)
		}
		for _, s := range b.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = cmp.Or(v.Commit, s.Value)
			case "vcs.time":
				v.Date = cmp.Or(v.Date, s.Value)
			case "vcs.modified":
				v.Modified = commit == "" && s.Value == "true"
			}
		}
	}
	v.Version = cmp.Or(v.Version, "devel")
	v.Commit = cmp.Or(v.Commit, "unknown")
	return v
}

// String is the one line of `fathom version`.
func (v Info) String() string {
	c := v.Commit
	if len(c) == 40 {
		c = c[:12]
	}
	if v.Modified {
		c += ", modified"
	}
	if v.Date != "" {
		c += ", " + v.Date
	}
	return fmt.Sprintf("fathom %s (commit %s) %s %s", v.Version, c, v.Go, v.Platform)
}
