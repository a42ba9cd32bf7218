package cmd

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"aegis.io/aegis/sop/policy"
	"aegis.io/aegis/strict"
)

// taintConfig is a taint of new nodes, which goes when they have passed a check.
type taintConfig struct {
	Key    string             `yaml:"key"`
	Value  string             `yaml:"value"`
	Effect corev1.TaintEffect `yaml:"effect"`
}

func taintEffects() []corev1.TaintEffect {
	return []corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
}

// intakeTaints returns the taints of the field.
func intakeTaints(field string, configured []taintConfig) ([]policy.IntakeTaint, error) {
	var taints []policy.IntakeTaint
	var errs []error
	for i, t := range configured {
		errs = append(errs, t.validate(fmt.Sprintf("%s[%d]", field, i)))
		taints = append(taints, policy.IntakeTaint{Key: t.Key, Value: t.Value, Effect: t.Effect})
	}
	return taints, errors.Join(errs...)
}

func (t taintConfig) validate(field string) error {
	var errs []error
	domain, _, _ := strings.Cut(t.Key, "/")
	switch wrong := validation.IsQualifiedName(t.Key); {
	case t.Key == "":
		errs = append(errs, mistakef(field+".key", "is missing, want the key of a taint such as example.com/intake"))
	case len(wrong) > 0:
		errs = append(errs, mistakef(field+".key", "%.60q is not the key of a taint: %s", t.Key, strings.Join(wrong, "; ")))
	case ofKubernetes(domain):
		errs = append(errs, mistakef(field+".key", "%q belongs to Kubernetes, which sets and removes it: use a key of your own", t.Key))
	}
	if wrong := validation.IsValidLabelValue(t.Value); len(wrong) > 0 {
		errs = append(errs, mistakef(field+".value", "%.60q is not the value of a taint: %s", t.Value, strings.Join(wrong, "; ")))
	}
	if t.Effect != "" && !slices.Contains(taintEffects(), t.Effect) {
		errs = append(errs, mistakef(field+".effect", "%q is unknown, %s", t.Effect, strict.Hint(string(t.Effect), taintEffects())))
	}
	return errors.Join(errs...)
}

// ofKubernetes reports whether the taints of the domain are those of Kubernetes itself.
func ofKubernetes(domain string) bool {
	return slices.ContainsFunc([]string{"kubernetes.io", "k8s.io"}, func(own string) bool {
		return domain == own || strings.HasSuffix(domain, "."+own)
	})
}
