// Package rights reads what the manifests of charts/aegis/rbac grant, and compares it with what is used.
package rights

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Manifests holds the objects of one or more files.
type Manifests struct {
	Accounts []corev1.ServiceAccount
	Roles    []Role
	Bindings []Binding
}

// Role is a Role, or a ClusterRole if its namespace is empty.
type Role struct {
	Namespace, Name string
	Rules           []rbacv1.PolicyRule
}

// String returns the kind and the name, and the namespace of a Role.
func (r Role) String() string { return reference(r.Namespace, r.Name) }

// Binding is a RoleBinding, or a ClusterRoleBinding if its namespace is empty.
type Binding struct {
	Namespace, Name string
	Ref             rbacv1.RoleRef
	Subjects        []rbacv1.Subject
}

// role returns the name of the role that is bound, as Role.String writes it.
func (b Binding) role() string {
	if b.Ref.Kind == "Role" {
		return reference(b.Namespace, b.Ref.Name)
	}
	return reference("", b.Ref.Name)
}

func reference(namespace, name string) string {
	if namespace == "" {
		return "ClusterRole " + name
	}
	return "Role " + namespace + "/" + name
}

// Grant is one verb on one resource that a role gives.
type Grant struct {
	// Role names the role that it is from.
	Role string
	// Namespaces are those in which it holds. None means the whole cluster.
	Namespaces []string
	// APIGroup is empty for the core group. Resource has its subresource after a slash.
	APIGroup, Resource, Verb string
	// Names restricts it to objects of these names, if there are any.
	Names []string
}

// String says what is granted, where, and by which role.
func (g Grant) String() string {
	where := "the cluster"
	if len(g.Namespaces) > 0 {
		where = strings.Join(g.Namespaces, ", ")
	}
	return fmt.Sprintf("%s: %s %s in %s", g.Role, g.Verb, g.Object(), where)
}

// Object names the group and the resource, and the objects if the grant is for some only.
func (g Grant) Object() string {
	object := g.Resource
	if g.APIGroup != "" {
		object = g.APIGroup + "/" + object
	}
	if len(g.Names) > 0 {
		object += " (" + strings.Join(g.Names, ", ") + ")"
	}
	return object
}

// Use is one request. Name is empty for those that name no object.
type Use struct {
	APIGroup, Resource, Verb, Namespace, Name string
}

// Allows reports whether the grant is one that permits the request.
func (g Grant) Allows(u Use) bool {
	return g.APIGroup == u.APIGroup && g.Resource == u.Resource && g.Verb == u.Verb &&
		(len(g.Namespaces) == 0 || slices.Contains(g.Namespaces, u.Namespace)) &&
		(len(g.Names) == 0 || slices.Contains(g.Names, u.Name))
}

// Unused returns the grants that permit none of the requests.
func Unused(grants []Grant, uses []Use) []Grant {
	return slices.DeleteFunc(slices.Clone(grants), func(g Grant) bool { return slices.ContainsFunc(uses, g.Allows) })
}

// Read reads every YAML file of a folder.
func Read(dir string) (*Manifests, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read rights: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read rights: no manifest in %s", dir)
	}
	all := &Manifests{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read rights: %w", err)
		}
		if err := all.add(text, true); err != nil {
			return nil, fmt.Errorf("read rights: %s: %w", file, err)
		}
	}
	return all, nil
}

// Find returns the objects of the text that have to do with rights.
func Find(text []byte) (*Manifests, error) {
	all := &Manifests{}
	if err := all.add(text, false); err != nil {
		return nil, fmt.Errorf("find rights: %w", err)
	}
	return all, nil
}

func (m *Manifests) add(text []byte, only bool) error {
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			return err
		}
		known, err := m.addObject(kind.Kind, document)
		if err != nil {
			return fmt.Errorf("%s: %w", kind.Kind, err)
		}
		if !known && only {
			return fmt.Errorf("unexpected kind %q", kind.Kind)
		}
	}
	return nil
}

func (m *Manifests) addObject(kind string, text []byte) (known bool, err error) {
	switch kind {
	case "ServiceAccount":
		o, err := decode[corev1.ServiceAccount](text)
		m.Accounts = append(m.Accounts, o)
		return true, err
	case "ClusterRole":
		o, err := decode[rbacv1.ClusterRole](text)
		m.Roles = append(m.Roles, Role{Name: o.Name, Rules: o.Rules})
		return true, err
	case "Role":
		o, err := decode[rbacv1.Role](text)
		m.Roles = append(m.Roles, Role{Namespace: o.Namespace, Name: o.Name, Rules: o.Rules})
		return true, err
	case "ClusterRoleBinding":
		o, err := decode[rbacv1.ClusterRoleBinding](text)
		m.Bindings = append(m.Bindings, Binding{Name: o.Name, Ref: o.RoleRef, Subjects: o.Subjects})
		return true, err
	case "RoleBinding":
		o, err := decode[rbacv1.RoleBinding](text)
		m.Bindings = append(m.Bindings, Binding{Namespace: o.Namespace, Name: o.Name, Ref: o.RoleRef, Subjects: o.Subjects})
		return true, err
	default:
		return false, nil
	}
}

func decode[T any](text []byte) (object T, err error) {
	return object, yaml.UnmarshalStrict(text, &object)
}

// Grants returns what the roles grant where they are bound, one grant per verb. A role that is bound nowhere grants nothing.
func (m *Manifests) Grants() []Grant {
	var grants []Grant
	for _, role := range m.Roles {
		namespaces, bound := m.boundIn(role)
		if !bound {
			continue
		}
		for _, rule := range role.Rules {
			grants = append(grants, expand(role, rule, namespaces)...)
		}
	}
	return grants
}

// boundIn returns where the role is bound; a binding for the whole cluster makes the others pointless.
func (m *Manifests) boundIn(role Role) (namespaces []string, bound bool) {
	for _, b := range m.Bindings {
		if b.role() != role.String() {
			continue
		}
		bound = true
		if b.Namespace == "" {
			return nil, true
		}
		namespaces = append(namespaces, b.Namespace)
	}
	return namespaces, bound
}

func expand(role Role, rule rbacv1.PolicyRule, namespaces []string) []Grant {
	var grants []Grant
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				grants = append(grants, Grant{
					Role: role.String(), Namespaces: namespaces, APIGroup: group, Resource: resource, Verb: verb, Names: rule.ResourceNames,
				})
			}
		}
	}
	return grants
}
