package jobs

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"aegis.io/aegis/jobs/protocol"
	"aegis.io/aegis/strict"
)

//go:embed *_node.yaml
var embedded embed.FS

const (
	// containerName is the container of a template that runs the operation.
	containerName = "op"
	// hostProgram is the program of the image that runs operations. Its entry point does so too, with the argument op before.
	hostProgram = "/aegis-op"
	// The names in the embedded templates that Render replaces. A template with another name keeps it.
	placeholderImage          = "aegis:latest"
	placeholderServiceAccount = "aegis-op"
	// minTTL is how long a finished Job must stay at least. Without it the result is lost, and the name is free
	// for the same operation to run again.
	minTTL = 3600
)

// Templates holds one checked Job manifest per action. It is immutable after LoadTemplates.
type Templates struct {
	byAction map[string]*batchv1.Job
}

// templateFile returns the file name of the template for the action, empty for an unknown one.
func templateFile(action string) string {
	switch action {
	case protocol.ActionReboot:
		return "restart_node.yaml"
	case protocol.ActionShutdown, protocol.ActionHealthcheck, protocol.ActionRepair, protocol.ActionRemedy, protocol.ActionDiagnose:
		return action + "_node.yaml"
	}
	return ""
}

// LoadTemplates returns the embedded templates, each replaced by the file of the same name in dir where there is one. An
// empty dir means the embedded ones alone. All that is wrong with the files is reported at once.
func LoadTemplates(dir string) (*Templates, error) {
	t := &Templates{byAction: make(map[string]*batchv1.Job)}
	var errs []error
	if dir != "" {
		if err := checkNames(dir); err != nil {
			errs = append(errs, err)
		}
	}
	for _, action := range protocol.Actions() {
		job, err := loadTemplate(dir, action)
		if err != nil {
			errs = append(errs, err)
		}
		t.byAction[action] = job
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return t, nil
}

// CheckFile checks a template by itself. Its name says which action it is for.
func CheckFile(file string) error {
	for _, action := range protocol.Actions() {
		if templateFile(action) != filepath.Base(file) {
			continue
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		_, err = decodeTemplate(file, action, raw)
		return err
	}
	return fmt.Errorf("%s: no action uses this file: its name must be one of %s", file, strings.Join(templateFiles(), ", "))
}

// templateFiles returns the names of all templates.
func templateFiles() []string {
	var names []string
	for _, action := range protocol.Actions() {
		names = append(names, templateFile(action))
	}
	return names
}

// checkNames finds manifests in dir that no action would ever use, such as a misspelt one.
func checkNames(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	known := templateFiles()
	var errs []error
	for _, e := range entries {
		// A mounted ConfigMap brings hidden directories along.
		if strings.HasPrefix(e.Name(), ".") || slices.Contains(known, e.Name()) {
			continue
		}
		if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			errs = append(errs, fmt.Errorf("%s: no action uses this file: must be one of %s",
				filepath.Join(dir, e.Name()), strings.Join(known, ", ")))
		}
	}
	return errors.Join(errs...)
}

func loadTemplate(dir, action string) (*batchv1.Job, error) {
	name, raw, err := readTemplate(dir, templateFile(action))
	if err != nil {
		return nil, err
	}
	return decodeTemplate(name, action, raw)
}

// readTemplate returns the file from dir, or the embedded one where dir has none.
func readTemplate(dir, file string) (name string, raw []byte, err error) {
	if dir != "" {
		name = filepath.Join(dir, file)
		raw, err = os.ReadFile(name)
		if !errors.Is(err, fs.ErrNotExist) {
			return name, raw, err
		}
	}
	raw, err = embedded.ReadFile(file)
	return file, raw, err
}

// decodeTemplate says where in the file each mistake is, those of its meaning included.
func decodeTemplate(name, action string, raw []byte) (*batchv1.Job, error) {
	d := strict.NewDecoder(name)
	d.Aliases, d.JSON, d.Legacy = true, true, true
	root, ok := d.Document(raw, "the file is empty, it must hold one Job")
	if !ok {
		return nil, d.Err()
	}
	// The kind first: strict decoding of anything else complains about its fields instead.
	if want := batchv1.SchemeGroupVersion.WithKind("Job"); textOf(root, "kind") != want.Kind || textOf(root, "apiVersion") != want.GroupVersion().String() {
		d.FailAt("kind", "is kind %.64q of apiVersion %.64q: must be kind %q of apiVersion %q",
			textOf(root, "kind"), textOf(root, "apiVersion"), want.Kind, want.GroupVersion())
		return nil, d.Err()
	}
	job := new(batchv1.Job)
	d.Decode(root, job)
	if err := d.Err(); err != nil {
		return nil, err
	}
	for _, problem := range slices.Concat(jobProblems(job), podProblems(action, &job.Spec.Template.Spec)) {
		field, _, _ := strings.Cut(problem, " ")
		d.FailAt(field, "%s", problem)
	}
	return job, d.Err()
}

// textOf returns the text of a field of the document, empty when it has none.
func textOf(root *yaml.Node, field string) string {
	if n := strict.Field(root, field); n != nil {
		return n.Value
	}
	return ""
}

// problems collects what is wrong with a template.
type problems []string

func (p *problems) unless(ok bool, format string, args ...any) {
	if !ok {
		*p = append(*p, fmt.Sprintf(format, args...))
	}
}

// jobProblems says what would make the Job run its operation more than once, or lose its result.
func jobProblems(job *batchv1.Job) problems {
	var p problems
	spec := &job.Spec
	backoffLimit := ptr.Deref(spec.BackoffLimit, 6)
	p.unless(backoffLimit == 0,
		"spec.backoffLimit is %d: must be 0, or a failed operation would be repeated unasked", backoffLimit)
	p.unless(ptr.Deref(spec.Parallelism, 1) == 1 && ptr.Deref(spec.Completions, 1) == 1,
		"spec.parallelism and spec.completions must be 1, or the operation would run more than once")
	p.unless(ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.NonIndexedCompletion,
		"spec.completionMode must be NonIndexed")
	p.unless(ptr.Deref(spec.PodReplacementPolicy, "") == batchv1.Failed,
		"spec.podReplacementPolicy is %q: must be Failed, or a second pod may start while the first one ends",
		ptr.Deref(spec.PodReplacementPolicy, ""))
	p.unless(spec.PodFailurePolicy == nil,
		"spec.podFailurePolicy is set: leave it out, it can repeat a failed operation in spite of backoffLimit")
	p.unless(ptr.Deref(spec.ActiveDeadlineSeconds, 0) > 0,
		"spec.activeDeadlineSeconds is %d: must be set, or an operation that hangs never ends",
		ptr.Deref(spec.ActiveDeadlineSeconds, 0))
	p.unless(ptr.Deref(spec.TTLSecondsAfterFinished, minTTL) >= minTTL,
		"spec.ttlSecondsAfterFinished is %d: must be at least %d, or the result may be gone before it is read",
		ptr.Deref(spec.TTLSecondsAfterFinished, 0), minTTL)
	p.unless(!ptr.Deref(spec.Suspend, false), "spec.suspend is true: a suspended Job never starts")
	p.unless(spec.Selector == nil && !ptr.Deref(spec.ManualSelector, false),
		"spec.selector or spec.manualSelector is set: leave both out, Kubernetes makes the selector")
	p.unless(spec.ManagedBy == nil, "spec.managedBy is set: leave it out")
	return p
}

// podProblems says what would make the pod run its operation more than once, or another operation than the action.
func podProblems(action string, pod *corev1.PodSpec) problems {
	var p problems
	p.unless(pod.RestartPolicy == corev1.RestartPolicyNever,
		"spec.template.spec.restartPolicy is %q: must be Never, or a failed operation would be repeated unasked",
		pod.RestartPolicy)
	op := opContainer(pod)
	if op == nil {
		return append(p, fmt.Sprintf("spec.template.spec.containers has no container %q: name the one that runs the operation so",
			containerName))
	}
	p.unless(op.RestartPolicy == nil && len(op.RestartPolicyRules) == 0,
		"container %q has a restart policy of its own: leave it out", containerName)
	if op.Image != placeholderImage {
		return p
	}
	switch {
	case len(op.Command) == 0:
		p.unless(slices.Equal(op.Args, []string{"op", action}),
			"container %q has the arguments %q: must be [op, %s]", containerName, op.Args, action)
	case slices.Equal(op.Command, []string{hostProgram}):
		p.unless(slices.Equal(op.Args, []string{action}),
			"container %q runs %s with the arguments %q: must be [%s]", containerName, hostProgram, op.Args, action)
	}
	// Another image or command has arguments of its own.
	return p
}

func opContainer(pod *corev1.PodSpec) *corev1.Container {
	i := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == containerName })
	if i < 0 {
		return nil
	}
	return &pod.Containers[i]
}
