package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"
)

// WriteResults writes a section of the file with results. It replaces a section with the same
// title and keeps the others.
func WriteResults(file, title, text string) error {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	heading := "# " + title + "\n"
	before, rest, found := strings.Cut(string(old), heading)
	after := ""
	if i := strings.Index(rest, "\n# "); i >= 0 {
		after = rest[i:]
	}
	if !found && before != "" {
		heading = "\n" + heading
	}
	return os.WriteFile(file, []byte(before+heading+"\n"+strings.TrimSpace(text)+"\n"+after), 0o644)
}

// Machine describes the machine of the tests, with the date. The processor is known on Linux
// only.
func Machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := strings.Cut(string(info), "model name\t: "); ok {
			model, _, _ = strings.Cut(after, "\n")
		}
	}
	return fmt.Sprintf("%s, %s, %d CPUs, %s/%s, %s", time.Now().UTC().Format(time.DateOnly),
		model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
