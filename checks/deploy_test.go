package checks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"go.yaml.in/yaml/v3"
)

// There is no container engine where these tests run. They check the syntax of the files for it, and that
// paths, ports and users in these files match.

const root = "../"

// image is the content of the Dockerfile.
type image struct {
	user  string
	env   map[string]string
	files map[string]string // sources by path in the image
	ports []string
	check []string
	cmd   []string
}

func readDockerfile(t *testing.T) image {
	t.Helper()
	text, err := os.ReadFile(root + "Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range parsed.Warnings {
		t.Errorf("Dockerfile: %s", w.Short)
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(stages) < 2 {
		t.Fatalf("the Dockerfile has %d stages, so that the image has what only the build needs", len(stages))
	}
	for _, s := range stages {
		if _, tag, ok := strings.Cut(s.BaseName, ":"); !ok || tag == "latest" {
			t.Errorf("FROM %s: name a version", s.BaseName)
		}
	}
	i := image{env: make(map[string]string), files: make(map[string]string)}
	for _, command := range stages[len(stages)-1].Commands {
		switch c := command.(type) {
		case *instructions.UserCommand:
			i.user = c.User
		case *instructions.EnvCommand:
			for _, pair := range c.Env {
				i.env[pair.Key] = pair.Value
			}
		case *instructions.CopyCommand:
			for _, source := range c.SourcePaths {
				i.files[c.DestPath] = source
				if c.From == "" {
					exists(t, "the Dockerfile", source)
				}
			}
		case *instructions.ExposeCommand:
			i.ports = append(i.ports, c.Ports...)
		case *instructions.HealthCheckCommand:
			i.check = c.Health.Test
		case *instructions.CmdCommand:
			i.cmd = c.CmdLine
		}
	}
	return i
}

// exists checks that a file or folder is in the repository.
func exists(t *testing.T, who, path string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(root, path)); err != nil {
		t.Errorf("%s names %s: %v", who, path, err)
	}
}

// listeners returns the ports of a Caddyfile. The module of store nats is not built in here.
func listeners(t *testing.T, name string, text []byte) (ports []string) {
	t.Helper()
	text = bytes.ReplaceAll(text, []byte("store nats {"), []byte("store contract {"))
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": name})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, w := range warnings {
		t.Errorf("%s: %s", name, w)
	}
	var config struct {
		Admin struct{ Listen string }
		Apps  struct {
			HTTP struct {
				Servers map[string]struct{ Listen []string }
			}
		}
	}
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	if config.Admin.Listen != "" {
		t.Errorf("%s moves the admin endpoint to %s", name, config.Admin.Listen)
	}
	for _, s := range config.Apps.HTTP.Servers {
		for _, address := range s.Listen {
			ports = append(ports, address[strings.LastIndexByte(address, ':')+1:])
		}
	}
	slices.Sort(ports)
	return ports
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(root + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestDockerfile: the image has its config, does not run as root, and has a health check at the admin
// endpoint.
func TestDockerfile(t *testing.T) {
	i := readDockerfile(t)
	if user, _, _ := strings.Cut(i.user, ":"); user == "" || user == "root" || user == "0" {
		t.Errorf("it runs as %q", i.user)
	}
	config := i.files["/etc/caddy/Caddyfile"]
	if !slices.Contains(i.cmd, "/etc/caddy/Caddyfile") || config == "" {
		t.Fatalf("it runs %q, and has %v", i.cmd, i.files)
	}
	for _, port := range listeners(t, config, read(t, config)) {
		if !slices.Contains(i.ports, port) {
			t.Errorf("the config listens on %s, EXPOSE names %v", port, i.ports)
		}
	}
	if i.env["XDG_DATA_HOME"] != "/data" || i.env["XDG_CONFIG_HOME"] != "/config" {
		t.Errorf("ENV: %v", i.env)
	}
	asked, err := url.Parse(i.check[len(i.check)-1])
	if err != nil || i.check[0] != "CMD" || asked.Host != "127.0.0.1:2019" {
		t.Fatalf("HEALTHCHECK: %q, %v", i.check, err)
	}
	for line := range strings.FieldsSeq(string(read(t, ".dockerignore"))) {
		if slices.Contains([]string{"deploy", "scripts", "store", "hub"}, line) {
			t.Errorf(".dockerignore leaves out %s, which the build needs", line)
		}
	}
}

// project parses a compose file as compose does.
func project(t *testing.T, name string) *types.Project {
	t.Helper()
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  root,
		ConfigFiles: []types.ConfigFile{{Filename: root + name}},
	}, func(o *loader.Options) { o.SetProjectName("caddy-sse", false) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mounted returns the file of the repository that is mounted at a path, or empty.
func mounted(s types.ServiceConfig, path string) string {
	for _, v := range s.Volumes {
		if rel, err := filepath.Rel(v.Target, path); v.Type == types.VolumeTypeBind && err == nil && !strings.HasPrefix(rel, "..") {
			return filepath.Join(v.Source, rel)
		}
	}
	return ""
}

// TestCompose: each service of both files runs without capabilities and with a read-only file system. All
// mounted files exist, and no port is open to other hosts.
func TestCompose(t *testing.T) {
	i := readDockerfile(t)
	for _, name := range []string{"compose.yaml", "compose.cluster.yaml"} {
		for _, s := range project(t, name).Services {
			who := name + " " + s.Name
			for _, v := range s.Volumes {
				if v.Type == types.VolumeTypeBind {
					if _, err := os.Stat(v.Source); err != nil {
						t.Errorf("%s: %v", who, err)
					}
					if !v.ReadOnly {
						t.Errorf("%s can write %s", who, v.Source)
					}
				}
			}
			for _, p := range s.Ports {
				if p.HostIP != "127.0.0.1" || p.Published == "2019" {
					t.Errorf("%s opens port %s to others", who, p.Published)
				}
			}
			if s.Build == nil && !regexp.MustCompile(`:v?\d+\.\d+\.\d+`).MatchString(s.Image) {
				t.Errorf("%s: %s has no full version", who, s.Image)
			}
			if s.Restart == "" {
				continue // it runs once and ends
			}
			if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") || !slices.Contains(s.SecurityOpt, "no-new-privileges:true") {
				t.Errorf("%s is not locked in", who)
			}
			if s.Build == nil {
				continue
			}
			// The image writes to two folders.
			for _, folder := range []string{i.env["XDG_DATA_HOME"], i.env["XDG_CONFIG_HOME"]} {
				writable := slices.ContainsFunc(s.Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == folder && !v.ReadOnly }) ||
					slices.ContainsFunc(s.Tmpfs, func(mount string) bool { path, _, _ := strings.Cut(mount, ":"); return path == folder })
				if !writable {
					t.Errorf("%s cannot write to %s", who, folder)
				}
			}
			config := mounted(s, "/etc/caddy/Caddyfile")
			if config == "" {
				t.Errorf("%s has no Caddyfile", who)
				continue
			}
			text, err := os.ReadFile(config)
			if err != nil {
				t.Fatal(err)
			}
			ports := listeners(t, config, text)
			for _, p := range s.Ports {
				if !slices.Contains(ports, fmt.Sprint(p.Target)) {
					t.Errorf("%s publishes port %d, and its Caddyfile listens on %v", who, p.Target, ports)
				}
			}
			if s.Ulimits["nofile"] == nil {
				t.Errorf("%s has no limit of open files of its own", who)
			}
		}
	}
}

// address is the name of a service, with a port.
var address = regexp.MustCompile(`\b(nats\d|node\d|balancer|prometheus|grafana):(\d+)`)

// TestComposeAddresses: the addresses in the configs of the cluster are services and ports of the compose
// file.
func TestComposeAddresses(t *testing.T) {
	p := project(t, "compose.cluster.yaml")
	ports := map[string][]string{
		"node":       listeners(t, "Caddyfile", read(t, "deploy/cluster/Caddyfile")),
		"prometheus": {"9090"},
	}
	for _, m := range regexp.MustCompile(`(?m)^\s*listen: .*:(\d+)$`).FindAllStringSubmatch(string(read(t, "deploy/cluster/nats.conf")), -1) {
		ports["nats"] = append(ports["nats"], m[1])
	}
	named := make(map[string]bool)
	err := filepath.WalkDir(root+"deploy/cluster", func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range address.FindAllStringSubmatch(string(text), -1) {
			named[m[1]] = true
			if _, err := p.GetService(m[1]); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if kind := strings.TrimRight(m[1], "0123456789"); !slices.Contains(ports[kind], m[2]) {
				t.Errorf("%s names %s, and %s listens on %v", path, m[0], kind, ports[kind])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node1", "node2", "node3", "nats1", "nats2", "nats3", "prometheus"} {
		if !named[name] {
			t.Errorf("no config names %s", name)
		}
	}
	for _, name := range []string{"nats1", "nats2", "nats3"} {
		if d := p.Services[name].DependsOn["volumes"]; d.Condition != types.ServiceConditionCompletedSuccessfully {
			t.Errorf("%s may start before it can write to its volume: %q", name, d.Condition)
		}
	}
	// The health check of NATS uses its monitoring port.
	check := strings.Join(p.Services["nats1"].HealthCheck.Test, " ")
	if monitoring := regexp.MustCompile(`(?m)^http: (\S+)`).FindSubmatch(read(t, "deploy/cluster/nats.conf")); monitoring == nil || !strings.Contains(check, string(monitoring[1])) {
		t.Errorf("the health check of NATS is %s", check)
	}
	prometheus, grafana := p.Services["prometheus"], p.Services["grafana"]
	var config struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			MetricsPath string `yaml:"metrics_path"`
		} `yaml:"scrape_configs"`
	}
	decode(t, read(t, "deploy/cluster/prometheus.yml"), &config)
	for _, rules := range config.RuleFiles {
		if _, err := os.Stat(mounted(prometheus, rules)); err != nil {
			t.Errorf("prometheus.yml: %v", err)
		}
	}
	var dashboards struct {
		Providers []struct{ Options struct{ Path string } }
	}
	decode(t, read(t, "deploy/cluster/grafana/dashboards/caddy-sse.yml"), &dashboards)
	for _, p := range dashboards.Providers {
		if files, err := filepath.Glob(mounted(grafana, p.Options.Path) + "/*.json"); err != nil || len(files) == 0 {
			t.Errorf("there is no dashboard at %s: %v", p.Options.Path, err)
		}
	}
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// TestKubernetes: the manifest in the docs has the ports, folders and user of the image.
func TestKubernetes(t *testing.T) {
	m := regexp.MustCompile("(?s)<!-- check: kubernetes -->\n```yaml\n(.*?)\n```").FindSubmatch(read(t, "docs/deploying.md"))
	if m == nil {
		t.Fatal("docs/deploying.md has no manifest any more")
	}
	var caddyfile string
	var set struct {
		Spec struct {
			Template struct {
				Spec struct {
					SecurityContext struct {
						RunAsUser int `yaml:"runAsUser"`
						FsGroup   int `yaml:"fsGroup"`
					} `yaml:"securityContext"`
					Volumes    []struct{ Name string }
					Containers []struct {
						Image string
						Env   []struct {
							ValueFrom struct {
								SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
							} `yaml:"valueFrom"`
						}
						Ports []struct {
							Name          string
							ContainerPort int `yaml:"containerPort"`
						}
						ReadinessProbe struct {
							HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
						} `yaml:"readinessProbe"`
						VolumeMounts []struct {
							Name      string
							MountPath string `yaml:"mountPath"`
						} `yaml:"volumeMounts"`
					}
				}
			}
			VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
		}
	}
	var services []struct{ TargetPort string }
	var allowed []string // ports, by the network policy
	documents := yaml.NewDecoder(bytes.NewReader(m[1]))
	for {
		var node yaml.Node
		if err := documents.Decode(&node); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var head struct {
			Kind string
			Data map[string]string
			Spec struct {
				Ports []struct {
					TargetPort string `yaml:"targetPort"`
				}
				PodSelector struct {
					MatchLabels map[string]string `yaml:"matchLabels"`
				} `yaml:"podSelector"`
				Ingress []struct{ Ports []struct{ Port string } }
			}
		}
		switch err := node.Decode(&head); {
		case err != nil && head.Kind == "":
			t.Fatal(err)
		case head.Kind == "ConfigMap":
			caddyfile = head.Data["Caddyfile"]
		case head.Kind == "StatefulSet":
			if err := node.Decode(&set); err != nil {
				t.Fatal(err)
			}
		case head.Kind == "Service":
			for _, p := range head.Spec.Ports {
				services = append(services, struct{ TargetPort string }{p.TargetPort})
			}
		case head.Kind == "NetworkPolicy":
			if head.Spec.PodSelector.MatchLabels["app"] != "caddy-sse" {
				t.Errorf("the network policy is for %v", head.Spec.PodSelector.MatchLabels)
			}
			for _, rule := range head.Spec.Ingress {
				for _, p := range rule.Ports {
					allowed = append(allowed, p.Port)
				}
			}
		}
	}
	i := readDockerfile(t)
	pod := set.Spec.Template.Spec
	if len(pod.Containers) != 1 || len(services) != 2 {
		t.Fatalf("%d containers, %d services", len(pod.Containers), len(services))
	}
	c := pod.Containers[0]
	var ports, names []string
	for _, p := range c.Ports {
		ports, names = append(ports, fmt.Sprint(p.ContainerPort)), append(names, p.Name)
	}
	if !slices.Equal(allowed, names) {
		t.Errorf("the network policy allows the ports %v, the container has %v", allowed, names)
	}
	secret := pod.Containers[0].Env[0].ValueFrom.SecretKeyRef
	if !strings.Contains(string(read(t, "docs/deploying.md")), "kubectl create secret generic "+secret.Name+" --from-literal="+secret.Key+"=") {
		t.Errorf("no command makes the secret %s", secret.Name)
	}
	slices.Sort(ports)
	if listen := listeners(t, "Caddyfile of docs/deploying.md", []byte(caddyfile)); !slices.Equal(ports, listen) {
		t.Errorf("the container has the ports %v, its Caddyfile %v", ports, listen)
	}
	for _, s := range services {
		if !slices.Contains(names, s.TargetPort) {
			t.Errorf("a service leads to the port %s", s.TargetPort)
		}
	}
	if probe := c.ReadinessProbe.HTTPGet; !slices.Contains(names, probe.Port) || !strings.Contains(caddyfile, "rewrite "+probe.Path+" /sse/ready\n\tsse_api /sse/ready\n") || !strings.Contains(caddyfile, "shutdown_delay 5s") {
		t.Errorf("the readiness probe asks for %s at %s", probe.Path, probe.Port)
	}
	volumes := []string{}
	for _, v := range pod.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, v := range set.Spec.VolumeClaimTemplates {
		volumes = append(volumes, v.Metadata.Name)
	}
	var mounts []string
	for _, v := range c.VolumeMounts {
		mounts = append(mounts, v.MountPath)
		if !slices.Contains(volumes, v.Name) {
			t.Errorf("there is no volume %s", v.Name)
		}
	}
	for _, folder := range []string{i.env["XDG_DATA_HOME"], i.env["XDG_CONFIG_HOME"], "/etc/caddy"} {
		if !slices.Contains(mounts, folder) {
			t.Errorf("nothing is mounted at %s", folder)
		}
	}
	if want := fmt.Sprintf("%d:%d", pod.SecurityContext.RunAsUser, pod.SecurityContext.FsGroup); i.user != want {
		t.Errorf("the pod runs as %s, the image as %s", want, i.user)
	}
}

// TestSystemd: systemd accepts the drop-in, with a unit like that of Caddy's packages.
func TestSystemd(t *testing.T) {
	dir := t.TempDir()
	unit := "[Unit]\nDescription=Caddy\n[Service]\nType=notify\nExecStart=/bin/true\nExecReload=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
	dropIn := string(read(t, "deploy/systemd/caddy.service.d/sse.conf"))
	binary := "/usr/local/bin/caddy"
	if !strings.Contains(dropIn, binary) || !strings.Contains(string(read(t, "docs/deploying.md")), "`"+binary+"`") {
		t.Errorf("the drop-in and the page name other binaries")
	}
	if strings.Contains(dropIn, "run --environ") {
		t.Error("the drop-in writes secrets to the journal")
	}
	for _, line := range []string{"EnvironmentFile=-/etc/caddy/env", "ReadWritePaths=/var/lib/caddy", "LogsDirectory=caddy", "RuntimeDirectory=caddy"} {
		_, value, _ := strings.Cut(line, "=")
		folder := strings.TrimPrefix(value, "-")
		switch {
		case strings.HasPrefix(line, "Logs"):
			folder = "/var/log/" + value
		case strings.HasPrefix(line, "Runtime"):
			folder = "/run/" + value
		}
		if !strings.Contains(dropIn, "\n"+line+"\n") || !strings.Contains(string(read(t, "docs/deploying.md")), "`"+folder+"`") {
			t.Errorf("the drop-in does not have %s, or the page does not name %s", line, folder)
		}
	}
	for _, file := range regexp.MustCompile(`output file (\S+)`).FindAllSubmatch(read(t, "docs/monitoring.md"), -1) {
		if !strings.HasPrefix(string(file[1]), "/var/log/caddy/") {
			t.Errorf("docs/monitoring.md logs to %s, which the drop-in does not allow", file[1])
		}
	}
	dropIn = strings.ReplaceAll(dropIn, binary, "/bin/true")
	for name, text := range map[string]string{"caddy.service": unit, "caddy.service.d/sse.conf": dropIn} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", filepath.Join(dir, "caddy.service")).CombinedOutput()
	if err != nil || strings.Contains(string(out), dir) {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// TestNATSUnit: the unit of the NATS server is valid, and has the paths of docs/scaling.md.
func TestNATSUnit(t *testing.T) {
	const name = "nats-server.service"
	unit := string(read(t, "deploy/systemd/"+name))
	page := string(read(t, "docs/scaling.md"))
	for line, inPage := range map[string]string{
		"ExecStart=/usr/local/bin/nats-server --config /etc/nats/nats.conf": "`/etc/nats/nats.conf`",
		"EnvironmentFile=/etc/caddy/env":                                    "EnvironmentFile=/etc/caddy/env",
		"StateDirectory=nats":                                               "store_dir: /var/lib/nats",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") || !strings.Contains(page, inPage) {
			t.Errorf("%s in the unit, or %s in the page: not found", line, inPage)
		}
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(unit, "/usr/local/bin/nats-server", "/bin/true")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), file) {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// TestVersions: all versions that a release raises are the same.
func TestVersions(t *testing.T) {
	var document struct{ Info struct{ Version string } }
	decode(t, read(t, "docs/openapi.yaml"), &document)
	var npm struct{ Version string }
	if err := json.Unmarshal(read(t, "client/package.json"), &npm); err != nil {
		t.Fatal(err)
	}
	if document.Info.Version != npm.Version {
		t.Errorf("docs/openapi.yaml has version %s, client/package.json %s", document.Info.Version, npm.Version)
	}
}
