// Package helm holds the chart against helm, the API types of Kubernetes, and the worker's
// flags: `make helm`.
package helm

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const (
	root  = "../.."
	chart = root + "/deploy/helm/tollgate"
)

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	command := exec.Command(name, args...)
	var complaints strings.Builder
	command.Stderr = &complaints
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, output, &complaints)
	}
	return string(output)
}

func valueFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(root + "/deploy/helm/values/*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatal(err, files)
	}
	return files
}

// kinds are the types that manifests are decoded into, strictly. KEDA's are not among them:
// its module brings half of Kubernetes along.
var kinds = map[string]func() any{
	"Deployment":            func() any { return &apps.Deployment{} },
	"ConfigMap":             func() any { return &core.ConfigMap{} },
	"Service":               func() any { return &core.Service{} },
	"ServiceAccount":        func() any { return &core.ServiceAccount{} },
	"PodDisruptionBudget":   func() any { return &policy.PodDisruptionBudget{} },
	"NetworkPolicy":         func() any { return &networking.NetworkPolicy{} },
	"ServiceMonitor":        func() any { return &monitoring.ServiceMonitor{} },
	"PrometheusRule":        func() any { return &monitoring.PrometheusRule{} },
	"ScaledObject":          func() any { return &map[string]any{} },
	"TriggerAuthentication": func() any { return &map[string]any{} },
}

// render renders the chart and decodes every manifest.
func render(t *testing.T, values string) (manifests map[string]any) {
	t.Helper()
	manifests = map[string]any{}
	output := run(t, "go", "tool", "helm", "template", "prod", chart, "-f", values)
	for document := range strings.SplitSeq(output, "\n---\n") {
		var kind meta.TypeMeta
		if err := yaml.Unmarshal([]byte(document), &kind); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if kind.Kind == "" {
			continue
		}
		into, known := kinds[kind.Kind]
		if !known {
			t.Fatalf("the test knows no kind %q", kind.Kind)
		}
		manifest := into()
		if err := yaml.UnmarshalStrict([]byte(document), manifest); err != nil {
			t.Fatalf("%s: %v\n%s", kind.Kind, err, document)
		}
		manifests[kind.Kind] = manifest
	}
	return manifests
}

func TestTheChartRendersWhatKubernetesTakes(t *testing.T) {
	want := map[string][]string{
		"small.yaml":      {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"},
		"token.yaml":      {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"},
		"oauth.yaml":      {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"},
		"msk.yaml":        {"ConfigMap", "Deployment", "PodDisruptionBudget", "Service", "ServiceAccount"},
		"secure.yaml":     {"Deployment", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor"},
		"autoscaled.yaml": {"ConfigMap", "Deployment", "ScaledObject", "Service", "TriggerAuthentication"},
	}
	for _, values := range valueFiles(t) {
		t.Run(filepath.Base(values), func(t *testing.T) {
			run(t, "go", "tool", "helm", "lint", "--strict", chart, "-f", values)
			manifests := render(t, values)
			var got []string
			for kind := range manifests {
				got = append(got, kind)
			}
			slices.Sort(got)
			if !slices.Equal(got, want[filepath.Base(values)]) {
				t.Errorf("got %v", got)
			}
			deployment := manifests["Deployment"].(*apps.Deployment)
			pod := deployment.Spec.Template.Spec
			container := pod.Containers[0]
			if !*pod.SecurityContext.RunAsNonRoot || !*container.SecurityContext.ReadOnlyRootFilesystem || *container.SecurityContext.AllowPrivilegeEscalation {
				t.Error("the pod may do more than it needs")
			}
			if container.ReadinessProbe.HTTPGet.Path != "/readyz" || container.LivenessProbe.HTTPGet.Path != "/healthz" {
				t.Error("the probes ask something else")
			}
			if (deployment.Spec.Replicas == nil) != (manifests["ScaledObject"] != nil) {
				t.Error("both the Deployment and KEDA, or neither, say how many workers there are")
			}
			for _, variable := range container.Env {
				if strings.Contains(variable.Name, "PASSWORD") && variable.ValueFrom == nil {
					t.Errorf("%s is not from a Secret", variable.Name)
				}
			}
		})
	}
}

// TestTheWorkerKnowsWhatTheChartSets: a variable that no flag answers to is silently ignored.
func TestTheWorkerKnowsWhatTheChartSets(t *testing.T) {
	help := run(t, "go", "run", "-C", root, "./cmd/worker", "run", "--help")
	known := regexp.MustCompile(`TOLLGATE_[A-Z0-9_]+`).FindAllString(help, -1)
	for _, values := range valueFiles(t) {
		for _, variable := range render(t, values)["Deployment"].(*apps.Deployment).Spec.Template.Spec.Containers[0].Env {
			if strings.HasPrefix(variable.Name, "TOLLGATE_") && !slices.Contains(known, variable.Name) {
				t.Errorf("%s: the worker has no %s", filepath.Base(values), variable.Name)
			}
		}
	}
}

func TestTheDefaultCatalogueIsOne(t *testing.T) {
	manifest := render(t, root+"/deploy/helm/values/small.yaml")["ConfigMap"].(*core.ConfigMap)
	file := filepath.Join(t.TempDir(), "catalog.yaml")
	if err := os.WriteFile(file, []byte(manifest.Data["catalog.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "go", "run", "-C", root, "./cmd/worker", "catalog", "check", file)
}

func TestWhatMustBeGivenIsAskedFor(t *testing.T) {
	output, err := exec.Command("go", "tool", "helm", "template", "prod", chart).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "kafka.brokers must be given") {
		t.Errorf("%v\n%s", err, output)
	}
}
