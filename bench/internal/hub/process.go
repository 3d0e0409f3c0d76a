package hub

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Publish runs this module's own benchmark and returns the events per second: 64 goroutines publish to a
// hub in the same process, on the servers' CPU and another one. The history is on disk or in memory.
func (w Workshop) Publish(ctx context.Context, kind string, d time.Duration, cpu int) (events float64, err error) {
	bin := filepath.Join(w.Bin, "publish.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", bin, "github.com/ea766355/caddy-sse/store/disk")
	build.Dir = w.Module
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go test -c: %w: %s", err, bytes.TrimSpace(out))
	}
	name := "BenchmarkPublish/" + kind + "/64"
	cmd := exec.CommandContext(ctx, bin, "-test.run", "^$", "-test.bench", "^"+strings.ReplaceAll(name, "/", "$/^")+"$", "-test.benchtime", d.String())
	cmd.Env = append(cmd.Environ(), "TMPDIR="+w.Bin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := startOn(cmd, w.CPU, cpu); err != nil {
		return 0, err
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out.Bytes()))
	}
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		for i := 1; i < len(fields) && strings.HasPrefix(line, name); i++ {
			if fields[i] == "events/s" {
				return strconv.ParseFloat(fields[i-1], 64)
			}
		}
	}
	return 0, fmt.Errorf("%s measured nothing: %s", name, bytes.TrimSpace(out.Bytes()))
}
